"""What the daemon tells systemd, over a real datagram socket, and what systemd tells it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from exo_rkllm.daemon.server import notify, systemd_sockets, watchdog_seconds
from tests.daemon.running import REPOSITORY, House


@pytest.mark.parametrize("abstract", [False, True])
def test_service_reports_how_it_is(tmp_path: Path, abstract: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"exo-rkllm-test-{os.getpid()}"
    address = f"\0{name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else address)
        notify("READY=1")
        notify("RELOADING=1\nMONOTONIC_USEC=5")
        assert [manager.recv(4096).decode() for _ in range(2)] == ["READY=1", "RELOADING=1\nMONOTONIC_USEC=5"]


def test_notification_without_a_manager_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nothing"))
    notify("READY=1")


def test_watchdog_is_for_the_process_that_it_names() -> None:
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 7) == 30.0
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000"}, 7) == 30.0
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 7) is None
    assert watchdog_seconds({}, 7) is None


def test_sockets_are_taken_only_by_the_process_that_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert systemd_sockets() == ()
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert systemd_sockets() == ()


@pytest.mark.parametrize("program", [["-m", "exo_rkllm"], ["-c"]])
def test_folder_of_units_does_not_hide_the_package_systemd(program: list[str]) -> None:
    """The repository has a folder `systemd/` of units, and both of these put the repository first in sys.path."""
    code = "import systemd.daemon, systemd.journal; print(systemd.daemon.__file__)"
    if program[0] == "-m":
        code = f"import runpy, sys; sys.path.insert(0, {str(REPOSITORY)!r}); {code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert "site-packages" in done.stdout or "dist-packages" in done.stdout, done.stderr


def test_daemon_without_systemd_python_serves_and_logs_to_stderr(house: House, tmp_path: Path) -> None:
    """As `pip install exo-rkllm` leaves it."""
    (tmp_path / "block").mkdir()
    (tmp_path / "block/sitecustomize.py").write_text("import sys\nsys.modules['systemd'] = None\n")
    path = f"{tmp_path / 'block'}:{house.environment['PYTHONPATH']}"
    house.words()
    daemon = house.start(wait=False, PYTHONPATH=path)
    daemon.wait_until_it_answers()
    assert daemon.answer("words", "one two") == "one two"
    assert daemon.stop() == 0
    assert "serves on" in daemon.text
    assert daemon.said == []
