"""Engines behind one seam: `base` is the contract, each other module one way to answer."""
