"""Files that change while they are in use: their stamps, and what the kernel tells of their folders."""
