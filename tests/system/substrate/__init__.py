"""What the system tests stand on: Debian roots, a kernel module, device trees, containers and virtual machines."""
