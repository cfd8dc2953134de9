"""A model's process that was started before: it is as good as a new one, and a load never depends on it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.errors import LoadError, RunnerLost
from exo_rkllm.runner import spare as spare_module
from exo_rkllm.runner.jobs import RunnerJob
from exo_rkllm.runner.launch import LANGUAGE_MODEL, ChildProcess, start_child
from exo_rkllm.runner.parent import Runner
from exo_rkllm.runner.spare import SpareChild
from exo_rkllm.runtime.values import LoadParams
from tests.runner.test_faults import nothing_stays_behind  # noqa: F401 - every test here leaves nothing, too
from tests.runner.test_runner import hear
from tests.simulated import Library

# Of /proc/PID/status: what a process may do and where, its signals, and whom it belongs to.
SURROUNDINGS = (
    "Name", "Umask", "Uid", "Gid", "Groups", "PPid", "Cpus_allowed", "Mems_allowed", "NoNewPrivs", "Seccomp", "Threads",
    "CapEff", "CapBnd", "CapInh", "SigBlk", "SigIgn", "SigCgt", "CoreDumping", "THP_enabled",
)  # fmt: skip


@pytest.fixture
def spare() -> Iterator[SpareChild]:
    spare = SpareChild()
    yield spare
    spare.close()


@pytest.fixture
def load(library: Library, board_root: Path, make_model: Callable[..., Path]) -> Callable[..., Any]:
    params = LoadParams(str(make_model(reply="Hello", template="none")), cpus=(0, 1, 2, 3))

    async def load(spare: SpareChild | None, **fields: Any) -> Runner:
        fields = {"report": lambda _lines: None, **fields}
        runner, _ = await Runner.start("model", library("1.3.1"), params, spare=spare, **fields)
        return runner

    return load


def waiting(spare: SpareChild) -> int:
    """The process that waits; it stays the spare's."""
    child = spare._child
    assert child is not None
    return child.process.pid


async def test_load_takes_the_waiting_process_and_leaves_another(spare: SpareChild, load: Callable[..., Any]) -> None:
    spare.refill()
    first = waiting(spare)
    spare.refill()
    assert waiting(spare) == first, "one is enough"
    runner = await load(spare)
    assert runner.pid == first
    assert waiting(spare) != first
    assert await hear(runner, RunnerJob(prompt="Hi")) == "Hello"
    await runner.close()


async def test_load_starts_a_process_where_none_waits_or_the_waiting_one_died(
    spare: SpareChild, load: Callable[..., Any]
) -> None:
    spare.refill()
    dead = waiting(spare)
    os.kill(dead, signal.SIGKILL)
    os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - at once
    runner = await load(spare)
    assert runner.pid not in (dead, waiting(spare))
    await runner.close()


async def test_load_does_not_fail_where_no_other_process_can_be_kept_waiting(
    spare: SpareChild, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_arguments: object) -> ChildProcess:
        raise LoadError("The process of a model cannot be started: no memory.", "ulimit -a")

    monkeypatch.setattr(spare_module, "start_child", none)
    runner = await load(spare)
    assert spare.take() is None
    await runner.close()


async def test_waiting_process_lives_as_a_new_one_does(spare: SpareChild, load: Callable[..., Any]) -> None:
    spare.refill()
    pid = waiting(spare)
    kept, new = await load(spare), await load(None)
    assert kept.pid == pid
    was, now = surroundings(kept.pid), surroundings(new.pid)
    assert {what for what in now if was[what] != now[what]} == set()
    assert now["Name"] == "rkllm-model" and now["oom_score_adj"] == "500"
    await kept.close()
    await new.close()


def surroundings(pid: int) -> Mapping[str, Any]:
    """All that a process gets from whoever starts it, descriptors by their kind."""
    folder = Path(f"/proc/{pid}")
    found: dict[str, Any] = {name: (folder / name).read_text() for name in ("limits", "cgroup", "sched", "environ")}
    found["sched"] = [line for line in found["sched"].splitlines() if line.startswith(("policy", "prio"))]
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    found |= {name: status[name].strip() for name in SURROUNDINGS if name in status}
    found["oom_score_adj"] = (folder / "oom_score_adj").read_text().strip()
    found |= {name: str((folder / name).readlink()) for name in ("cwd", "root", "exe")}
    found["namespaces"] = sorted(str(link.readlink()) for link in (folder / "ns").iterdir())
    kinds = (str(link.readlink()).partition(":[")[0] for link in (folder / "fd").iterdir())
    found["descriptors"] = sorted(kinds)
    found["nice"] = os.getpriority(os.PRIO_PROCESS, pid)
    found["leads its group"], found["session"] = os.getpgid(pid) == pid, os.getsid(pid)
    return found


async def test_environment_of_a_load_reaches_the_library_in_a_process_that_was_started_before(
    spare: SpareChild, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_LOG_LEVEL", "0")
    spare.refill()
    quiet, loud = [0, 0]
    for level in ("0", "2"):
        lines: list[str] = []
        runner = await load(spare, report=lines.extend, environment={"RKLLM_LOG_LEVEL": level})
        await runner.close()
        quiet, loud = loud, len(lines)
    assert quiet < loud


async def test_signal_that_ends_a_process_that_had_waited_is_named(spare: SpareChild, load: Callable[..., Any]) -> None:
    spare.refill()
    runner = await load(spare)
    os.kill(runner.pid, signal.SIGSEGV)
    error = await runner.lost()
    assert isinstance(error, RunnerLost) and "was killed by SIGSEGV while idle" in error.sentence
    await runner.close()


def test_closed_spare_has_no_process_and_starts_none() -> None:
    spare = SpareChild()
    spare.refill()
    pid = waiting(spare)
    spare.close()
    assert not Path(f"/proc/{pid}").exists()
    spare.refill()
    assert spare.take() is None


def test_waiting_process_ends_when_its_socket_closes() -> None:
    """Which is what a daemon that was killed leaves."""
    child = start_child(LANGUAGE_MODEL, "model")
    child.sock.close()
    began = time.monotonic()
    assert child.process.wait(20) == 0
    assert time.monotonic() - began < 20
    child.discard()
