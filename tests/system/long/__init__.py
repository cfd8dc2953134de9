"""What takes too long for every run: `make system-test-long`."""
