"""Models by name: cards and their folders on disk, pulling and importing, how each model is spoken to."""
