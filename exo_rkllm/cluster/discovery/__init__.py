"""Finds exo nodes on the network."""
