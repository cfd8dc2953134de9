"""What is written down, and where it goes: the journal, the terminal, and a ring that the control socket shows."""
