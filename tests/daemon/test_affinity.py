"""The daemon's own threads leave the fast cores to the model's process. This machine plays a board of two clusters."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exo_rkllm.board.affinity import slow_cpus
from exo_rkllm.socs import BY_NAME
from tests.daemon.running import Daemon, House

HERE = sorted(os.sched_getaffinity(0))
needs_two = pytest.mark.skipif(len(HERE) < 2, reason="needs two CPUs")


def clusters(root: Path, slow: list[int], fast: list[int]) -> None:
    for cpu in (*slow, *fast):
        folder = root / f"sys/devices/system/cpu/cpu{cpu}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu_capacity").write_text("1024\n" if cpu in fast else "530\n")


def threads(pid: int) -> list[set[int]]:
    return [os.sched_getaffinity(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()]


def child_of(daemon: Daemon) -> int:
    [child] = daemon.model_processes()
    return child


@needs_two
def test_daemon_leaves_the_fast_cores_while_a_model_is_loaded(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    clusters(Path(board_house.environment["EXO_RKLLM_BOARD_ROOT"]), HERE[:1], HERE[1:])
    board_house.simulated("qwen", make_model, reply="Hello")
    daemon = board_house.start()
    everything, slow = set(HERE), set(HERE[:1])
    assert all(cpus == everything for cpus in threads(daemon.process.pid))
    assert daemon.answer("qwen", "Hi") == "Hello"
    assert all(cpus == slow for cpus in threads(daemon.process.pid))
    assert all(cpus == everything for cpus in threads(child_of(daemon)))
    assert daemon.status()["cpus"] == {"given": HERE, "own": HERE[:1]}
    board_house.command("unload", "qwen")
    for _ in range(100):
        if daemon.status()["cpus"]["own"] == HERE:
            break
        time.sleep(0.05)
    assert all(cpus == everything for cpus in threads(daemon.process.pid))
    # The second load starts its process while we are away from the fast cores, or just before.
    assert daemon.answer("qwen", "Hi") == "Hello"
    assert all(cpus == everything for cpus in threads(child_of(daemon)))


@needs_two
def test_daemon_that_was_given_fast_cores_only_stays_there(board_house: House, make_model: Callable[..., Path]) -> None:
    clusters(Path(board_house.environment["EXO_RKLLM_BOARD_ROOT"]), HERE[:1], HERE[1:])
    board_house.simulated("qwen", make_model, reply="Hello")
    daemon = board_house.start(through=("taskset", "-c", str(HERE[1])))
    assert daemon.answer("qwen", "Hi") == "Hello"
    assert all(cpus == {HERE[1]} for cpus in threads(daemon.process.pid))


def test_clusters_come_from_the_kernel_or_the_table(tmp_path: Path) -> None:
    assert slow_cpus(tmp_path, BY_NAME["rk3588"]) == {0, 1, 2, 3}
    assert slow_cpus(tmp_path, BY_NAME["rk3562"]) == frozenset()
    assert slow_cpus(tmp_path, None) == frozenset()
    clusters(tmp_path, [4, 5], [0, 1])
    assert slow_cpus(tmp_path, BY_NAME["rk3588"]) == {4, 5}
