"""The Debian releases that are tried, as a table."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Release:
    name: str
    compiler: str  # what the release's kernel was built with, so that a module fits it
    python: str
    systemd: int
    kernel: str = ""  # another suite that the kernel is taken from

    def __str__(self) -> str:
        return self.kernel or self.name

    @property
    def suites(self) -> tuple[str, ...]:
        return (self.name, self.kernel) if self.kernel else (self.name,)


BOOKWORM = Release("bookworm", "gcc-12", "3.11", 252)
TRIXIE = Release("trixie", "gcc-14", "3.13", 257)
RELEASES = (BOOKWORM, TRIXIE)
NEWER_KERNELS = (replace(BOOKWORM, kernel="bookworm-backports"), replace(TRIXIE, kernel="trixie-backports"))

# What the package depends on is installed when it comes from the repository, which the tests reach and a mirror they
# do not: so all of it is in the roots.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "ca-certificates",
    "curl",
    "debconf",
    "iproute2",
    "kmod",
    "openssh-server",
    "passwd",
    "procps",
    "python3",
    "python3-aiohttp",
    "python3-jinja2",
    "python3-pil",
    "python3-numpy",
    "python3-prometheus-client",
    "python3-pyudev",
    "python3-systemd",
)
