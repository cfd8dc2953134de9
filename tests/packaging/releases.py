"""What the four releases have of what the package depends on, as apt shows it: the floor under every constraint."""

from __future__ import annotations

from collections.abc import Mapping

# Ubuntu 22.04, Debian 12, Ubuntu 24.04, Debian 13. python3-tomli is only asked for where python3 is older than 3.11.
RELEASES: Mapping[str, Mapping[str, str]] = {
    "jammy": {
        "debconf": "1.5.79ubuntu1",
        "libc6": "2.35-0ubuntu3",
        "libgcc-s1": "12-20220319-1ubuntu1",
        "passwd": "1:4.8.1-2ubuntu2",
        "python3": "3.10.4-0ubuntu2",
        "python3-aiohttp": "3.8.1-4",
        "python3-jinja2": "3.0.3-1",
        "python3-numpy": "1:1.21.5-1build2",
        "python3-prometheus-client": "0.9.0-1",
        "python3-pyudev": "0.22.0-2",
        "python3-tomli": "1.2.2-2",
        "systemd": "249.11-0ubuntu3",
        "udev": "249.11-0ubuntu3",
    },
    "bookworm": {
        "debconf": "1.5.82",
        "libc6": "2.36-9+deb12u7",
        "libgcc-s1": "12.2.0-14",
        "passwd": "1:4.13+dfsg1-1+b1",
        "python3": "3.11.2-1+b1",
        "python3-aiohttp": "3.8.4-1+deb12u1",
        "python3-jinja2": "3.1.2-1+deb12u3",
        "python3-numpy": "1:1.24.2-1+deb12u1",
        "python3-prometheus-client": "0.16.0-0.1",
        "python3-pyudev": "0.24.0-1",
        "systemd": "252.39-1~deb12u2",
        "udev": "252.39-1~deb12u2",
    },
    "noble": {
        "debconf": "1.5.86ubuntu1",
        "libc6": "2.39-0ubuntu8",
        "libgcc-s1": "14-20240412-0ubuntu1",
        "passwd": "1:4.13+dfsg1-4ubuntu3",
        "python3": "3.12.3-0ubuntu1",
        "python3-aiohttp": "3.9.1-1",
        "python3-jinja2": "3.1.2-1ubuntu1",
        "python3-numpy": "1:1.26.4+ds-6ubuntu1",
        "python3-prometheus-client": "0.19.0+ds1-1",
        "python3-pyudev": "0.24.0-1build1",
        "systemd": "255.4-1ubuntu8",
        "udev": "255.4-1ubuntu8",
    },
    "trixie": {
        "debconf": "1.5.91",
        "libc6": "2.41-12",
        "libgcc-s1": "14.2.0-19",
        "passwd": "1:4.17.4-2",
        "python3": "3.13.5-1",
        "python3-aiohttp": "3.11.16-1+deb13u1",
        "python3-jinja2": "3.1.6-1",
        "python3-numpy": "1:2.2.4+ds-1",
        "python3-prometheus-client": "0.21.1+ds1-1",
        "python3-pyudev": "0.24.3-1",
        "systemd": "257.13-1~deb13u1",
        "udev": "257.13-1~deb13u1",
    },
}
