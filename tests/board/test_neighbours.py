"""Who else holds the NPU, on boards whose processes are folders, and on this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from exo_rkllm.board.detect import DeviceNode, detect
from exo_rkllm.board.neighbours import Neighbours, NeighbourWatch, find_neighbours
from tests.boards import ordinary_user

DAEMON = 700
NOBODY = 2**22 + 1  # above the highest process number


def process(root: Path, pid: int, comm: str, *opened: str, parent: int = 1, cmdline: str = "") -> Path:
    folder = root / "proc" / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text(f"{comm}\n")
    (folder / "stat").write_text(f"{pid} ({comm}) S {parent} {pid} {pid} 0 -1\n")
    (folder / "cmdline").write_bytes(cmdline.replace(" ", "\0").encode())
    for number, target in enumerate(opened, 3):
        (folder / "fd" / str(number)).symlink_to(target)
    return folder


@pytest.fixture
def root(board: Callable[[str], Path]) -> Path:
    root = board("orangepi-5-plus")
    process(root, 1, "systemd", "/dev/null")
    process(root, DAEMON, "exo-rkllm", "/dev/dri/card1")
    process(root, 701, "python3", "/dev/dri/card1", parent=DAEMON)
    process(root, 702, "a) S 1 (b", "/dev/dri/card1", parent=701)
    return root


def look(root: Path) -> Neighbours:
    return find_neighbours(root, detect(root), DAEMON)


def test_daemon_and_its_children_are_no_neighbours(root: Path) -> None:
    assert look(root) == Neighbours({}, complete=True)


def test_programs_are_named_and_counted(root: Path) -> None:
    process(root, 800, "frigate.detecto", "/dev/dri/renderD129", "/dev/dri/card1")
    process(root, 801, "frigate.detecto", "socket:[7]", "/dev/dri/renderD129")
    process(root, 802, "python3.11", "/dev/dri/card1", cmdline="/usr/bin/python3.11 -u /opt/whisper/serve.py --port 1")
    process(root, 803, "Xorg", "/dev/dri/card0")  # the display's node
    assert look(root) == Neighbours({"frigate.detecto": 2, "serve.py": 1}, complete=True)
    assert look(root).text == "frigate.detecto (2 processes), serve.py"


def test_misc_device_counts_where_the_driver_has_one(board: Callable[[str], Path]) -> None:
    root = board("rv1126b-misc")
    process(root, 5, "rknn_server", "/dev/rknpu")
    assert look(root).names == {"rknn_server": 1}


def test_process_that_may_not_be_read_is_never_nobody(root: Path) -> None:
    hidden = process(root, 800, "frigate", "/dev/dri/card1")
    (hidden / "fd").chmod(0o700)
    with ordinary_user():
        assert look(root) == Neighbours({}, complete=False)


def test_hidden_processes_are_never_nobody(board: Callable[[str], Path]) -> None:
    root = board("orangepi-5-plus")
    process(root, DAEMON, "exo-rkllm")
    assert look(root) == Neighbours({}, complete=False)


def test_processes_of_this_machine_are_read(board: Callable[[str], Path]) -> None:
    """As if /dev/full, which no program keeps open, were the NPU's node."""
    found = detect(board("orangepi-5-plus"))
    assert found.npu is not None
    here = replace(found, npu=replace(found.npu, nodes=(DeviceNode("/dev/full", "card", present=True),)))
    with Path("/dev/full").open("rb") as node:
        sleeper = subprocess.Popen(["sleep", "60"], stdin=node)
    try:
        assert find_neighbours(Path("/"), here, NOBODY).names == {"sleep": 1}
        assert find_neighbours(Path("/"), here, os.getpid()).names == {}
    finally:
        sleeper.kill()
        sleeper.wait()


def test_latest_look_is_kept_for_a_while() -> None:
    looks: list[int] = []

    def look_again() -> Neighbours:
        looks.append(1)
        return Neighbours({}, complete=True)

    watch = NeighbourWatch(look_again)
    assert watch.read() is watch.read()
    assert looks == [1]
