"""This node's session with a master: the log, the replica of exo's state, and what is published."""
