"""Neighbours on one NPU, as real processes, for as long as you like.

`python -m tests.daemon.neighbours [SECONDS [SEED]]`, three minutes if nothing else is said: six programs take leases,
crash, and overstay their time; two models answer, and their processes are killed; the driver is unbound and bound
again. It ends with 1 if two computed at once, or if a turn was lost. A day of the same in virtual time is in
tests/dispatch/test_npu_turns.py.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from exo_rkllm.client.control import Client
from simulator import boards
from simulator.model_file import SimModel, write
from tests.daemon.running import REPOSITORY, Daemon, House, house_of
from tests.simulated import build

NEIGHBOURS = 6
MODELS = ("qwen", "gemma")
# Nobody waits longer: a lease and its grace, a load after a crash, and a turn of each other one on a busy machine.
LONGEST_WAIT = 60.0
# The driver's events come through a pipe here.
CODE = """\
import asyncio, os, sys
sys.argv[0] = "exo-rkllm"
from exo_rkllm.board.watch import Change
from exo_rkllm.daemon import hardware

class Pipe:
    def __init__(self):
        self.number = os.open(os.environ["HOME"] + "/uevents", os.O_RDWR | os.O_NONBLOCK)
    def fileno(self):
        return self.number
    def drain(self):
        return [Change("change", "platform", "fdab0000.npu") for _ in os.read(self.number, 64)]
    def close(self):
        os.close(self.number)

def follow(self):
    self.watch.start(asyncio.get_running_loop(), Pipe())

hardware.Hardware._follow_board = follow
from exo_rkllm.cli import main
raise SystemExit(main())
"""


@dataclass
class Report:
    seconds: float
    words: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    refusals: set[str] = field(default_factory=set)
    answers: int = 0
    kills: int = 0
    resets: int = 0
    left: str = ""

    @property
    def faults(self) -> list[str]:
        found = [f"{count} x {word}" for word, count in self.words.items() if word in ("overlap", "beside", "lost")]
        found += [f"a wait of {wait:.1f} s" for wait in self.waits if wait > LONGEST_WAIT]
        found += [f"refused: {sentence}" for sentence in self.refusals if "no driver" not in sentence]
        return found + ([self.left] if self.left else [])

    def __str__(self) -> str:
        granted, waits = self.words["GRANTED"], sorted(self.waits) or [0.0]
        return (
            f"{self.seconds:.0f} s: {granted} leases granted, {self.words['REFUSED']} refused for want of a driver, "
            f"{self.words['EXPIRED']} expired; {self.words['crashed']} holders and {self.kills} model processes "
            f"killed, {self.resets} driver resets, {self.answers} answers; median wait {waits[len(waits) // 2]:.2f} s, "
            f"longest {waits[-1]:.2f} s. " + ("; ".join(self.faults) or "Never two at once, no turn lost.")
        )


# ── a neighbour's process ────────────────────────────────────────────────────────────────────────


def neighbour(path: Path, lock: str, notes: str, seed: int, until: float) -> None:
    """Takes turns until then, or until it crashes; `notes` gets a line for everything that happens to it."""
    dice = random.Random(seed)
    log = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(line: str) -> None:
        os.write(log, f"{line}\n".encode())

    def crash_by(chance: float) -> None:
        if dice.random() < chance:
            note("crashed")
            os.kill(os.getpid(), signal.SIGKILL)

    while time.time() < until:
        # Before the socket: a dying process closes it first. The kernel frees a lock of this kind right then, and one
        # of flock(2) some time after it has closed the socket.
        held = os.open(lock, os.O_RDWR | os.O_CREAT)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2 * LONGEST_WAIT)
            connection.connect(str(path))
            began = time.monotonic()
            connection.sendall(f"ACQUIRE neighbour {seed % NEIGHBOURS}\n".encode())
            crash_by(0.02)
            lines = connection.makefile()
            try:
                word, _, sentence = lines.readline().strip().partition(" ")
            except TimeoutError:
                word, sentence = "lost", ""
            note(f"{word or 'lost'} {time.monotonic() - began:.3f} {sentence}")
            if word == "GRANTED":
                try:
                    fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    note("overlap")
                status = Client(path.with_name("control.sock"), 30.0).get("/control/status")
                if any(model["running"] for model in status["models"]):
                    note("beside")
                time.sleep(dice.uniform(0, 0.2))
                crash_by(0.05)
                if dice.random() < 0.01:
                    note(lines.readline().strip())
                os.close(held)
                held = -1
                if dice.random() < 0.5:
                    with suppress(OSError):
                        connection.sendall(b"RELEASE\n")
        if held >= 0:
            os.close(held)
        time.sleep(dice.uniform(0, 0.3))


# ── everything around them ───────────────────────────────────────────────────────────────────────


def board_in(house: House) -> Path:
    root = boards.write("orangepi-5-plus", house.folder / "b")
    os.mkfifo(house.folder / "uevents")
    house.environment |= {
        "RKLLM_SIM_ROOT": str(root),
        "EXO_RKLLM_BOARD_ROOT": str(root),
        "EXO_RKLLM_RUNTIME_LIBRARY": str(build() / "1.3.0" / "librkllmrt.so"),
        "EXO_RKLLM_DISPATCH_LEASE_TIMEOUT": "5",
    }
    for name in MODELS:
        house.add(name, '[weights]\nfile = "m.rkllm"\n')
        write(house.models / name / "m.rkllm", SimModel(reply="{user}", template="none", decode_tps=100))
    return root


def reset(root: Path, uevents: Path, seconds: float) -> None:
    """The driver is gone for so long."""
    links = (root / "sys/bus/platform/drivers/RKNPU/fdab0000.npu", root / "sys/devices/platform/fdab0000.npu/driver")
    targets = [link.readlink() for link in links]
    for link in links:
        link.unlink()
    uevents.write_bytes(b"-")
    time.sleep(seconds)
    for link, target in zip(links, targets, strict=True):
        link.symlink_to(target)
    uevents.write_bytes(b"+")


def children(parent: int) -> list[int]:
    stats = (path.read_text().rpartition(")") for path in Path("/proc").glob("[0-9]*/stat") if path.parent.exists())
    return [int(name.split()[0]) for name, _, rest in stats if int(rest.split()[1]) == parent]


def run(seconds: float, seed: int, folder: Path) -> Report:
    house = house_of(folder / "h")
    house.program = (sys.executable, "-c", CODE)
    root = board_in(house)
    with house.stack:
        return _run(house, root, Report(seconds), random.Random(seed))


def _run(house: House, root: Path, report: Report, dice: random.Random) -> Report:
    daemon = house.start()
    path, lock, notes = house.socket.with_name("npu.sock"), house.folder / "lock", house.folder / "notes"
    end, over = time.monotonic() + report.seconds, threading.Event()

    def living(number: int) -> None:
        """One neighbour after another: each goes on for the one that crashed."""
        until = str(time.time() + end - time.monotonic())
        while time.monotonic() < end:
            words = map(str, (path, lock, notes, number + NEIGHBOURS * dice.randrange(10**6), until))
            command = [sys.executable, "-m", "tests.daemon.neighbours", "neighbour", *words]
            code = subprocess.run(command, cwd=REPOSITORY, env=house.environment, check=False).returncode
            if code not in (0, -signal.SIGKILL):
                report.left = f"a neighbour ended with {code}"

    def asking(model: str) -> None:
        while time.monotonic() < end:
            with suppress(Exception):  # its process was killed, or the driver is away
                daemon.answer(model, "one two three four five six")
                report.answers += 1
            time.sleep(0.05)

    def hearing() -> None:
        while not over.wait(0.05):
            daemon.hear()

    def trouble() -> None:
        while (now := time.monotonic()) < end:
            time.sleep(min(end - now, dice.uniform(1.0, 4.0)))
            if dice.random() < 0.5:
                for child in children(daemon.process.pid):
                    with suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                        report.kills += 1
            else:
                reset(root, house.folder / "uevents", dice.uniform(0.0, 1.0))
                report.resets += 1

    with ThreadPoolExecutor(NEIGHBOURS + len(MODELS) + 2) as pool:
        heard = pool.submit(hearing)
        work = [pool.submit(living, number) for number in range(NEIGHBOURS)]
        work += [*(pool.submit(asking, model) for model in MODELS), pool.submit(trouble)]
        try:
            for one in work:
                one.result()
            report.left = report.left or after(daemon, path)
        finally:
            over.set()
            heard.result()
    for line in notes.read_text().splitlines():
        word, _, rest = line.partition(" ")
        report.words[word] += 1
        if rest:
            report.waits.append(float(rest.split()[0]))
        if word == "REFUSED":
            report.refusals.add(rest.partition(" ")[2])
    return report


def after(daemon: Daemon, path: Path) -> str:
    """What is left behind once everybody has gone; empty if everything works again."""
    status = daemon.wait_for(lambda status: not status["lease"]["name"] and not status["lease"]["waiting"])
    if any(model["waiting"] for model in status["models"]):
        return f"requests wait for ever: {status['models']}"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LONGEST_WAIT)
        connection.connect(str(path))
        connection.sendall(b"ACQUIRE last\n")
        if (line := connection.makefile().readline()) != "GRANTED\n":
            return f"the last lease is {line!r}"
    for model in MODELS:
        # A model whose process was killed four times in a row is refused for two minutes, which is no loss of a turn.
        with suppress(Exception):
            daemon.client.post("/control/load", model=model)
            if daemon.answer(model, "one two").split()[-2:] != ["one", "two"]:
                return f"{model} answers wrongly"
    return ""


def main(words: list[str]) -> int:
    if words[:1] == ["neighbour"]:
        neighbour(Path(words[1]), words[2], words[3], int(words[4]), float(words[5]))
        return 0
    seconds, seed = float(words[0]) if words else 180.0, int(words[1]) if words[1:] else 1
    with tempfile.TemporaryDirectory(prefix="rkllm-") as folder:
        report = run(seconds, seed, Path(folder))
    print(report)  # noqa: T201 - its purpose
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
