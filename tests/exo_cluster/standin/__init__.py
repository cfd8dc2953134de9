"""An exo node as the protocol describes it: strict to the point of ending itself over one bad message."""
