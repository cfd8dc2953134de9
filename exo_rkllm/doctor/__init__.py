"""`exo-rkllm doctor`: an ordered table of checks over one look at the machine, for people and for programs."""
