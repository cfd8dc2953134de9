"""exo's messages: one table a revision, and their encoding, decoding and checks."""
