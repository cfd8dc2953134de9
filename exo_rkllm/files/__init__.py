"""Files: their stamps, what the kernel tells of their folders, and how they outlive a power cut."""
