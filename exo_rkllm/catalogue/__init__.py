"""Models by name: cards and their folders on disk, pulling and importing."""
