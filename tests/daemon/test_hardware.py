"""What the machine has for a load: address windows, memory, and what keeps models from the NPU."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.assembly import NO_PLUGINS, open_node
from exo_rkllm.backends.host import WINDOWS, windows
from exo_rkllm.backends.rkllm_file import RkllmFile
from exo_rkllm.board.detect import detect
from exo_rkllm.config import load
from exo_rkllm.daemon.hardware import Hardware, available_memory, limits
from exo_rkllm.runtime import locate
from tests.runtime import folders
from tests.simulated import Library

GIB = 1 << 30


def test_old_driver_has_one_address_window(board: Callable[[str], Path]) -> None:
    assert windows(detect(board("orangepi-5-plus"))) == WINDOWS
    assert windows(detect(board("old-driver"))) == 1
    assert windows(detect(Path("/nonexistent"))) == WINDOWS


@pytest.mark.parametrize(
    ("profile", "release", "lowest", "insists"),
    [
        ("orangepi-5-plus", "1.2.3", 1, None),
        ("orangepi-5-plus", "", 1, None),
        ("orangepi-5-plus", "1.1.4", 1, 0),  # reported to crash in any other (rknn-vision 3)
        ("old-driver", "1.2.3", 0, None),
    ],
)
def test_language_models_leave_domain_0_to_librknnrt(
    board: Callable[[str], Path],
    tmp_path: Path,
    library: Library,
    make_model: Callable[..., Path],
    profile: str,
    release: str,
    lowest: int,
    insists: int | None,
) -> None:
    config = load({"HOME": str(tmp_path)})
    assert limits(config, detect(board(profile)), frozenset()).lowest_domain == lowest
    node = open_node(config, NO_PLUGINS, library=library(release) if release else tmp_path / "none.so")
    assert node.needs(RkllmFile(make_model(toolkit="1.1.4"))).domain == insists


async def test_board_is_the_reason_before_the_library(board: Callable[[str], Path], tmp_path: Path) -> None:
    def reason(root: Path) -> str:
        environment = {"EXO_RKLLM_BOARD_ROOT": str(root), "EXO_RKLLM_RUNTIME_LIBRARY": str(tmp_path / "gone.so")}
        hardware = Hardware(load({"HOME": str(tmp_path), **environment}), lambda: None)
        hardware.start()
        hardware.close()
        assert hardware.unavailable_reason is not None
        return hardware.unavailable_reason.code

    assert reason(board("orangepi-5-plus")) == "runtime_missing"
    assert reason(tmp_path) == "board"


async def test_libraries_are_looked_at_again_beside_the_loop(
    board: Callable[[str], Path],
    tmp_path: Path,
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Eight megabytes each, on a slow card; two changes in a row are one more search, and nothing is told twice."""
    caplog.set_level("INFO")
    link = folders.filled(tmp_path / "lib", library, "1.3.0", "1.2.3")
    environment = {"EXO_RKLLM_BOARD_ROOT": str(board("orangepi-5-plus")), "EXO_RKLLM_RUNTIME_LIBRARY": str(link)}
    changed = asyncio.Event()
    hardware = Hardware(load({"HOME": str(tmp_path), **environment}), changed.set)
    hardware.start()
    loop_thread, threads = threading.current_thread(), list[threading.Thread]()
    search = locate.search

    def slow_search(*arguments: Any, **named: Any) -> locate.Search:
        threads.append(threading.current_thread())
        time.sleep(0.2)
        return search(*arguments, **named)

    monkeypatch.setattr(locate, "search", slow_search)
    caplog.clear()
    try:
        folders.put(tmp_path / "lib", library, "1.2.0")
        await asyncio.wait_for(changed.wait(), 10)
        assert hardware.runtimes is not None
        assert [place.release for place in hardware.runtimes.installed] == ["1.3.0", "1.2.3", "1.2.0"]
        assert threads and loop_thread not in threads
        assert [line for line in caplog.messages if "librkllmrt" in line] == [
            f"{tmp_path}/lib/runtimes/librkllmrt-1.2.0.so is librkllmrt 1.2.0."
        ]
    finally:
        hardware.close()


# ── memory ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:  8000000 kB\nMemAvailable:    4194304 kB\nHugePages_Total:   0\n")
    return tmp_path


def limit(root: Path, **files: str) -> None:
    (root / "proc/self/cgroup").write_text("0::/system.slice/exo-rkllm.service\n")
    group = root / "sys/fs/cgroup/system.slice/exo-rkllm.service"
    group.mkdir(parents=True)
    for name, text in files.items():
        (group / f"memory.{name}").write_text(text)


def test_memory_without_a_limit_is_the_machines(root: Path) -> None:
    assert available_memory(root) == 4 * GIB


def test_nearer_limit_of_a_unit_counts(root: Path) -> None:
    limit(root, max=f"{3 * GIB}\n", current=f"{2 * GIB}\n", stat=f"anon 5\ninactive_file {GIB // 2}\n")
    assert available_memory(root) == GIB + GIB // 2


@pytest.mark.parametrize("files", [{"max": "max\n"}, {}, {"max": "123", "current": "what"}])
def test_unreadable_limit_does_not_count(root: Path, files: dict[str, str]) -> None:
    limit(root, **files)
    assert available_memory(root) == 4 * GIB


def test_memory_of_this_machine_is_read() -> None:
    assert available_memory(Path("/")) > 0
