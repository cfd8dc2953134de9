"""What the daemon tells systemd, over a real datagram socket, and what systemd tells it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from exo_rkllm.daemon.systemd import Notifier, inherited, watchdog_seconds


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_says_how_it_is(tmp_path: Path, abstract: bool) -> None:
    name = f"exo-rkllm-test-{os.getpid()}"
    address = f"\0{name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(2)
        notifier = Notifier({"NOTIFY_SOCKET": f"@{name}" if abstract else address})
        notifier.ready()
        notifier.status("Well.")
        notifier.status("Well.")
        notifier.alive()
        notifier.reloading()
        notifier.stopping()
        said = [manager.recv(4096).decode() for _ in range(5)]
    assert said[:3] == ["READY=1", "STATUS=Well.", "WATCHDOG=1"]
    assert said[3].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert said[4] == "STOPPING=1"


def test_without_a_manager_nobody_hears_it(tmp_path: Path) -> None:
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nothing")}).ready()


def test_the_watchdog_is_for_the_process_that_it_names() -> None:
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 7) == 30.0
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000"}, 7) == 30.0
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 7) is None
    assert watchdog_seconds({}, 7) is None


def test_sockets_are_taken_only_by_the_process_that_they_are_for() -> None:
    assert inherited({"LISTEN_FDS": "1", "LISTEN_PID": "8"}, 7) == ()
    assert inherited({}, 7) == ()
