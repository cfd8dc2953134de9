"""The exo node: how a board that runs no exo takes part in an exo cluster."""
