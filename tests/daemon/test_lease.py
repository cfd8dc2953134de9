"""Turns on the NPU for other programs: real daemons, real processes, and holders that crash."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import neighbours
from tests.daemon.neighbours import children
from tests.daemon.running import REPOSITORY, Daemon, House

HOLDERS = 12


def lease_path(house: House) -> Path:
    return house.socket.with_name("npu.sock")


class Neighbour:
    """One connection to the lease socket."""

    def __init__(self, house: House, first_line: bytes = b"ACQUIRE frigate\n") -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(15.0)
        self.socket.connect(str(lease_path(house)))
        with suppress(BrokenPipeError):  # one that is refused for their number may be so before it speaks
            self.socket.sendall(first_line)
        self._lines = self.socket.makefile()

    def line(self) -> str:
        return self._lines.readline().strip()

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


def holder(status: dict[str, Any]) -> str:
    return str(status["lease"]["name"])


def npu_run(house: House, *words: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*house.program, "npu", "run", *words],
        cwd=house.at, env={**house.environment, **variables}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def npu_daemon(board_house: House, make_model: Callable[..., Path]) -> Daemon:
    board_house.simulated("qwen", make_model, reply="{user}", template="none", decode_tps=400)
    return board_house.start()


# ── the protocol ─────────────────────────────────────────────────────────────────────────────────


def test_neighbour_waits_for_the_answer_and_the_next_answer_for_the_neighbour(
    board_house: House, npu_daemon: Daemon
) -> None:
    long = " ".join(["word"] * 400)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(npu_daemon.answer, "qwen", long)
        npu_daemon.wait_for(lambda status: any(model["running"] for model in status["models"]))
        neighbour = Neighbour(board_house)
        assert neighbour.line() == "GRANTED"
        assert first.done() or not npu_daemon.model("qwen")["running"]
        assert holder(npu_daemon.status()) == "frigate"
        assert "frigate has the NPU by a lease" in board_house.command("top", "--once").stdout
        second = pool.submit(npu_daemon.answer, "qwen", "one two")
        npu_daemon.wait_for(lambda status: any(model["waiting"] for model in status["models"]))
        time.sleep(0.2)
        assert not second.done()
        neighbour.socket.sendall(b"RELEASE\n")
        assert second.result(10).split()[-2:] == ["one", "two"]
        assert neighbour.line() == "", "the connection is closed"
        neighbour.close()
        assert holder(npu_daemon.status()) == ""
        assert first.result(10)


@pytest.mark.parametrize("line", [b"HELLO\n", b"ACQUIRE\n", b"ACQUIRE \x00\x1b\n", b"x" * 5000])
def test_anything_but_acquire_is_refused(board_house: House, npu_daemon: Daemon, line: bytes) -> None:
    neighbour = Neighbour(board_house, line)
    assert neighbour.line().startswith("REFUSED Send ACQUIRE")
    neighbour.close()


def test_silent_connections_and_too_many_are_turned_away(board_house: House) -> None:
    """Each takes a descriptor of the daemon."""
    patched = "from exo_rkllm.daemon import lease; lease.FIRST_LINE, lease.MOST = 1.0, 3"
    run = "import sys; sys.argv[0] = 'exo-rkllm'; from exo_rkllm.cli import main; raise SystemExit(main())"
    board_house.program = (sys.executable, "-c", f"{patched}; {run}")
    board_house.start()
    silent = [Neighbour(board_house, b"ACQU") for _ in range(3)]
    time.sleep(0.2)
    late = Neighbour(board_house)
    assert late.line() == "REFUSED 3 programs are connected already."
    assert [one.line() for one in silent] == ["REFUSED Send ACQUIRE, a name and a newline."] * 3
    assert [one.line() for one in silent] == [""] * 3, "and the connection is closed"
    again = Neighbour(board_house)
    assert again.line() == "GRANTED"
    for one in (late, again, *silent):
        one.close()


def test_holder_that_stays_hears_expired_and_the_npu_goes_on(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    board_house.simulated("qwen", make_model, reply="{user}", template="none", decode_tps=400)
    daemon = board_house.start(EXO_RKLLM_DISPATCH_LEASE_TIMEOUT="1")
    neighbour = Neighbour(board_house)
    assert (neighbour.line(), neighbour.line()) == ("GRANTED", "EXPIRED")
    neighbour.close()
    assert daemon.answer("qwen", "one")


def test_machine_without_an_npu_refuses_with_the_reason(house: House) -> None:
    house.start(EXO_RKLLM_BOARD_ROOT=str(house.folder))
    neighbour = Neighbour(house)
    assert neighbour.line().startswith("REFUSED ")
    neighbour.close()


def test_socket_belongs_to_the_group_and_goes_with_the_daemon(board_house: House, npu_daemon: Daemon) -> None:
    path = lease_path(board_house)
    assert path.stat().st_mode & 0o007 == 0
    npu_daemon.stop()
    assert not path.exists()


# ── exo-rkllm npu run ────────────────────────────────────────────────────────────────────────────


def test_npu_run_holds_the_npu_around_a_command(board_house: House, npu_daemon: Daemon) -> None:
    command = npu_run(board_house, "--name", "whisper", "--", "sh", "-c", "echo here; exec sleep 3")
    assert command.stdout is not None and command.stdout.readline() == "here\n"
    assert holder(npu_daemon.status()) == "whisper"
    assert command.poll() is None
    command.kill()  # the command itself has inherited the lease
    command.wait()
    time.sleep(0.2)
    assert holder(npu_daemon.status()) == "whisper"
    npu_daemon.wait_for(lambda status: holder(status) == "")


def test_npu_run_has_the_commands_exit_code(board_house: House, npu_daemon: Daemon) -> None:
    assert board_house.command("npu", "run", "--", "sh", "-c", "exit 7").returncode == 7
    assert board_house.command("npu", "run", "--", "sh", "-c", "kill -9 $$").returncode == 137
    assert board_house.command("npu", "run", "--", "/no/such/program").returncode == 127
    assert holder(npu_daemon.status()) == ""
    background = board_house.command("npu", "run", "--", "sh", "-c", "sleep 3 >/dev/null 2>&1 & exit 0")
    assert background.returncode == 0
    assert holder(npu_daemon.status()) == "", "what the command leaves behind has no lease"


def test_npu_run_ends_a_command_whose_time_is_over(board_house: House) -> None:
    board_house.start(EXO_RKLLM_DISPATCH_LEASE_TIMEOUT="1")
    ended = board_house.command("npu", "run", "--", "sleep", "60")
    assert (ended.returncode, "its time is over" in ended.stderr) == (124, True)


def test_npu_run_ends_its_command_when_the_daemon_goes(board_house: House, npu_daemon: Daemon) -> None:
    command = npu_run(board_house, "--", "sleep", "60")
    npu_daemon.wait_for(lambda status: holder(status) == "sleep")
    npu_daemon.stop()
    _, stderr = command.communicate(timeout=15)
    assert (command.returncode, "the daemon is gone" in stderr) == (124, True)


def test_npu_run_passes_signals_on(board_house: House, npu_daemon: Daemon) -> None:
    command = npu_run(board_house, "--name", "sleep", "--", "sh", "-c", "echo here; exec sleep 60")
    assert command.stdout is not None and command.stdout.readline() == "here\n"
    assert holder(npu_daemon.status()) == "sleep"
    command.send_signal(signal.SIGTERM)
    assert command.wait(10) == 128 + signal.SIGTERM


def test_npu_run_without_a_daemon_or_a_command_says_so(house: House) -> None:
    alone = house.command("npu", "run", "--", "true")
    assert (alone.returncode, "not running" in alone.stderr) == (1, True)
    assert house.command("npu", "run").returncode == 2


# ── a dozen holders that crash ───────────────────────────────────────────────────────────────────


def test_dozen_holders_crash_and_no_turn_is_lost(board_house: House, npu_daemon: Daemon, tmp_path: Path) -> None:
    """Half are killed by SIGKILL, waiting or holding, while two clients ask and the model's process dies once."""
    notes, lock = tmp_path / "notes", tmp_path / "lock"
    npu_daemon.answer("qwen", "warm")
    holders = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.daemon.neighbour", *map(str, (lease_path(board_house), lock, notes, seed))],
            cwd=REPOSITORY, env=board_house.environment,
        )
        for seed in range(HOLDERS)
    ]  # fmt: skip

    def ask() -> int:
        count = 0
        while any(one.poll() is None for one in holders):
            with suppress(Exception):
                npu_daemon.answer("qwen", "one two three")
                count += 1
        return count

    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        time.sleep(1.0)
        for child in children(npu_daemon.process.pid):
            os.kill(child, signal.SIGKILL)
        codes = [one.wait(60) for one in holders]
        answers = sum(one.result() for one in asking)
    crashes = [seed for seed in range(HOLDERS) if seed % 3 == 0 or seed % 4 == 0]
    assert codes == [-signal.SIGKILL if seed in crashes else 0 for seed in range(HOLDERS)]
    words = Counter(line.rpartition(" ")[0] for line in notes.read_text().splitlines())
    assert words["crashed"] == len(crashes)
    assert words.keys() == {"GRANTED", "crashed"}, "nobody beside another, nobody refused"
    assert words["GRANTED"] >= 10 * (HOLDERS - len(crashes)) + 3 * len(crashes)
    assert answers >= 10, "our own models had their turns"
    status = npu_daemon.wait_for(lambda status: not holder(status))
    assert status["lease"]["waiting"] == []
    assert npu_daemon.answer("qwen", "after")


def test_few_seconds_of_neighbours_killed_models_and_driver_resets_lose_no_turn(tmp_path: Path) -> None:
    """`python -m tests.daemon.neighbours SECONDS` does this for longer."""
    report = neighbours.run(6.0, 3, tmp_path)
    assert report.faults == [], report
    assert report.words["GRANTED"] > 3
    assert report.answers > 1
    assert report.resets + report.kills > 0
