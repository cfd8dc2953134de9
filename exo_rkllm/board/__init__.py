"""What machine this is and how its NPU does, read from the kernel's files below a root that tests can choose."""
