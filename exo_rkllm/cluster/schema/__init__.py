"""What exo's nodes accept on the wire, one table a revision, and the check of a message against it."""
