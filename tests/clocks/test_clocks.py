"""Clocks go up while somebody is connected, and afterwards every file says exactly what it said before."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exo_rkllm.board import clocks_unit
from exo_rkllm.board.clocks import clock_controls, raise_clocks, restore_clocks
from exo_rkllm.board.performance import Performance
from exo_rkllm.errors import ClocksError
from tests.clocks.unit import REPOSITORY, Unit, everything, governors

Build = Callable[[str], Path]
NPU = "sys/class/devfreq/fdab0000.npu"
DMC = "sys/class/devfreq/dmc"
CPU = "sys/devices/system/cpu/cpufreq"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text + "\n")


@pytest.fixture
def root(board: Build) -> Path:
    """A board whose owner had his own ideas: a fixed NPU clock, powersave on the little cores."""
    root = board("orangepi-5-plus")
    write(root / NPU / "governor", "userspace")
    write(root / NPU / "userspace/set_freq", "700000000")
    write(root / CPU / "policy0/scaling_governor", "powersave")
    return root


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder / "governors.json"


EVERY = ["fdab0000.npu", "dmc", "policy0", "policy4", "policy6"]


def test_clocks_of_a_board_are_listed() -> None:
    assert clock_controls(Path("/nonexistent")) == []


@pytest.mark.parametrize(
    ("profile", "names"),
    [
        ("orangepi-5-plus", EVERY),
        ("rock-4d", ["27700000.npu", "dmc", "policy0", "policy4"]),
        ("rk3562-evb2", ["ff300000.npu", "dmc", "policy0"]),
        ("devfreq-missing", ["dmc", "policy0", "policy4", "policy6"]),
        ("acpi", []),
    ],
)
def test_every_board_has_its_own_clocks(profile: str, names: list[str], board: Build) -> None:
    assert [knob.name for knob in clock_controls(board(profile))] == names


def test_restore_leaves_every_file_as_it_was(root: Path, saved: Path) -> None:
    before = everything(root)
    outcome = raise_clocks(root, saved)
    assert (list(outcome.done), outcome.failed) == (EVERY, ())
    assert set(governors(root).values()) == {"performance"}
    assert saved.exists()
    outcome = restore_clocks(root, saved)
    assert (list(outcome.done), outcome.failed) == (EVERY, ())
    assert everything(root) == before
    assert not saved.exists()


def test_fixed_frequency_is_restored_with_its_governor(root: Path, saved: Path) -> None:
    raise_clocks(root, saved)
    write(root / NPU / "userspace/set_freq", "1000000000")
    restore_clocks(root, saved)
    assert (root / NPU / "governor").read_text().strip() == "userspace"
    assert (root / NPU / "userspace/set_freq").read_text().strip() == "700000000"


def test_raising_twice_keeps_the_saved_governors(root: Path, saved: Path) -> None:
    before = everything(root)
    raise_clocks(root, saved)
    raise_clocks(root, saved)
    restore_clocks(root, saved)
    assert everything(root) == before


def test_missing_governor_is_named_and_the_others_are_set(root: Path, saved: Path) -> None:
    write(root / DMC / "available_governors", "dmc_ondemand userspace")
    outcome = raise_clocks(root, saved)
    assert outcome.failed == ("dmc has no governor performance.",)
    assert governors(root)["dmc"] == "dmc_ondemand"
    assert governors(root)["policy4"] == "performance"


def test_refused_write_is_named(root: Path, saved: Path) -> None:
    path = root / CPU / "policy4/scaling_governor"
    path.unlink()
    path.mkdir()
    outcome = raise_clocks(root, saved)
    assert len(outcome.failed) == 1
    assert "policy4: scaling_governor cannot be set to performance" in outcome.failed[0]
    saved.write_text(json.dumps({"policy4": ["ondemand"], "policy0": ["powersave"]}))
    outcome = restore_clocks(root, saved)
    assert outcome.done == ("policy0",)
    assert "policy4" in outcome.failed[0]


@pytest.mark.parametrize("note", ["", "{", "[]", '{"dmc": 3}', '{"dmc": []}', '{"../x": ["y"]}', '{"dmc": [1, 2]}'])
def test_senseless_note_changes_nothing(note: str, root: Path, saved: Path) -> None:
    before = everything(root)
    saved.write_text(note)
    assert restore_clocks(root, saved).done == ()
    assert everything(root) == before


# ── the unit ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def unit(root: Path, tmp_path: Path) -> Iterator[Unit]:
    folder = tmp_path / "runtime"
    folder.mkdir()
    unit = Unit(root, folder, folder / "clocks.sock")
    yield unit
    unit.close()


async def test_clocks_stay_raised_while_the_daemon_is_connected(unit: Unit) -> None:
    before = everything(unit.root)
    unit.start()
    performance = Performance(unit.socket)
    outcome = await performance.up()
    assert list(outcome.done) == EVERY
    assert performance.connected
    assert set(governors(unit.root).values()) == {"performance"}
    assert (await performance.up()).done == ()
    await performance.down()
    await performance.down()
    code, said = unit.end()
    assert code == 0
    assert "Clocks raised: fdab0000.npu, dmc" in said
    assert "Clocks restored: fdab0000.npu, dmc" in said
    assert everything(unit.root) == before
    assert not unit.saved.exists()


async def test_clocks_stay_raised_until_the_last_connection_ends(unit: Unit) -> None:
    unit.start()
    first, second = Performance(unit.socket), Performance(unit.socket)
    await first.up()
    assert list((await second.up()).done) == EVERY
    await first.down()
    await asyncio.sleep(0.3)
    assert set(governors(unit.root).values()) == {"performance"}
    await second.down()
    assert unit.end()[0] == 0
    assert governors(unit.root)["policy4"] == "ondemand"


def test_killed_daemon_releases_the_clocks(unit: Unit) -> None:
    before = everything(unit.root)
    unit.start()
    code = (
        "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect(sys.argv[1]);"
        "sys.stdout.write(s.recv(4096).decode()); sys.stdout.flush(); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(unit.socket)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert json.loads(holder.stdout.readline())["done"] == EVERY
        holder.kill()
    assert unit.end()[0] == 0
    assert everything(unit.root) == before


async def test_systemd_restores_the_clocks_of_a_killed_unit(unit: Unit) -> None:
    before = everything(unit.root)
    unit.start()
    performance = Performance(unit.socket)
    await performance.up()
    assert unit.process is not None
    unit.process.send_signal(signal.SIGKILL)
    unit.process.wait(10)
    assert set(governors(unit.root).values()) == {"performance"}
    unit.stop_post()
    assert everything(unit.root) == before
    unit.stop_post()
    assert everything(unit.root) == before
    await performance.down()


async def test_stopped_unit_restores_the_clocks(unit: Unit) -> None:
    before = everything(unit.root)
    unit.start()
    performance = Performance(unit.socket)
    await performance.up()
    assert unit.process is not None
    unit.process.send_signal(signal.SIGTERM)
    assert unit.end()[0] == 0
    assert everything(unit.root) == before
    await performance.down()


def test_data_on_the_connection_is_ignored(unit: Unit) -> None:
    unit.start()
    with socket.socket(socket.AF_UNIX) as talker:
        talker.settimeout(10)
        talker.connect(str(unit.socket))
        talker.sendall(b"\0rm -rf /\n" * 1000)
        assert json.loads(talker.recv(4096))["done"] == EVERY
    assert unit.end()[0] == 0


def test_unit_without_a_connection_ends(unit: Unit) -> None:
    started = time.monotonic()
    unit.start()
    code, said = unit.end()
    assert (code, said) == (0, "")
    assert time.monotonic() - started < clocks_unit.NOBODY_CONNECTS + 4


def test_unit_started_by_hand_names_its_socket(capsys: pytest.CaptureFixture[str]) -> None:
    assert clocks_unit.main([]) == 2
    assert "systemctl start exo-rkllm-clocks.socket" in capsys.readouterr().err


async def test_missing_unit_is_named_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(ClocksError) as missing:
        await Performance(tmp_path / "none.sock").up()
    assert "systemctl enable --now exo-rkllm-clocks.socket" in missing.value.hint


async def test_senseless_answer_of_the_unit_is_an_error(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(answer, tmp_path / "odd.sock")
    performance = Performance(tmp_path / "odd.sock")
    with pytest.raises(ClocksError, match="could not be raised"):
        await performance.up()
    assert not performance.connected
    server.close()
    await server.wait_closed()


# ── the unit files ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_privileged_unit_is_confined() -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=15"]
    done = subprocess.run(
        [*command, str(REPOSITORY / "systemd/exo-rkllm-clocks.service")], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout[-400:] + done.stderr
