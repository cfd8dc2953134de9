"""The child's process: how it is started, and what its end means."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import exo_rkllm
from exo_rkllm.board import affinity
from exo_rkllm.errors import ExoRkllmError, LoadError, RunnerLost
from exo_rkllm.runtime import failures
from exo_rkllm.runtime.blackbox import BlackBox

# A file that crashes with one version of the runtime works with another (board-facts 13).
OTHER_RUNTIMES = "exo-rkllm selftest --runtimes {name} tries each installed runtime"
# By the signal that ended a child; `{name}` is the model's.
HINTS: Mapping[int, str] = {
    signal.SIGSEGV: OTHER_RUNTIMES,
    signal.SIGBUS: OTHER_RUNTIMES,
    # Reference 4.2: runtime 1.3.0 carries instructions that an RK3588 lacks.
    signal.SIGILL: "Install a runtime build that fits this CPU: exo-rkllm runtime --install FILE",
    signal.SIGKILL: "Look for the out-of-memory killer: journalctl -k --grep 'Out of memory'",
}
LOG_HINT = "Its last output is in the log: exo-rkllm logs"
# No environment and no site-packages: a model's process needs nothing of them.
FLAGS: tuple[str, ...] = ("-I", "-S")
SITE_FLAGS: tuple[str, ...] = ("-I",)
BOOT = "import sys; sys.path.insert(0, sys.argv[5]); from {} import main; main(*map(int, sys.argv[1:5]))"
HOME = str(Path(exo_rkllm.__file__).absolute().parent.parent)


@dataclass(frozen=True, slots=True)
class ChildProgram:
    """What a child runs: `main` of a module, with or without the packages that are installed."""

    module: str
    site: bool = False


LANGUAGE_MODEL = ChildProgram("exo_rkllm.runner.child")
ENCODER = ChildProgram("exo_rkllm.runner.encoder_child")


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """A started process, our end of its socketpair, and the black box that takes its output."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    box: BlackBox

    def discard(self) -> None:
        """Ends a process that nobody has given work to."""
        self.process.kill()
        self.process.wait()
        self.sock.close()
        self.box.close()


def start_child(
    program: ChildProgram, name: str, environment: Mapping[str, str] = MappingProxyType({})
) -> ChildProcess:
    """A process that inherits two descriptors: its end of the socketpair, and the black box for its output.

    `environment` goes over ours. Raises LoadError where no process can be had; nothing is left open then.
    """
    sock, theirs = socket.socketpair()
    sock.setblocking(False)
    box = BlackBox.create()
    # Bound to the thread that starts the child (prctl(2)), so only the thread that lives longest may ask for it.
    die_with_us = threading.current_thread() is threading.main_thread()
    numbers = [theirs.fileno(), box.fd, os.getpid(), int(die_with_us)]
    flags = SITE_FLAGS if program.site else FLAGS
    try:
        with theirs, affinity.for_child():
            process = subprocess.Popen(
                [sys.executable, *flags, "-c", BOOT.format(program.module), *map(str, numbers), HOME],
                stdin=subprocess.DEVNULL,
                stdout=box.fd,
                stderr=box.fd,
                pass_fds=(theirs.fileno(), box.fd),
                env={**os.environ, **environment},
            )
    except OSError as error:
        sock.close()
        box.close()
        raise LoadError(f"The process of {name} cannot be started: {error.strerror}.", "ulimit -a") from error
    return ChildProcess(process, sock, box)


def death_of(name: str, status: int, activity: str, lines: Sequence[str]) -> ExoRkllmError:
    """Why a child is gone, by its exit status and its last output.

    A library that cannot load a model may say why and die of it; that reason is worth more than the signal.
    """
    if activity == "loading" and (error := failures.explain(lines, failures.Context(name, "this runtime"))) is not None:
        return error
    if status < 0:
        how, hint = f"was killed by {signal.Signals(-status).name}", HINTS.get(-status, LOG_HINT)
        return RunnerLost(f"The process of {name} {how} while {activity}.", hint.replace("{name}", name))
    return RunnerLost(f"The process of {name} ended with exit code {status} while {activity}.", LOG_HINT)


def resident_bytes(pid: int | None) -> int | None:
    """What unloading a process gives back of RAM; None where it cannot be read."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * mmap.PAGESIZE
