"""The Debian packages on real systemd: in containers, and on an emulated board. `make system-test` runs this folder."""
