"""Stand-ins for what only a board has: the vendor library, model files, the board itself."""
