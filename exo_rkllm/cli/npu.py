"""`exo-rkllm npu run`: run a command while it has the NPU for itself."""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from exo_rkllm.client.lease import Lease, open_lease
from exo_rkllm.errors import UsageError

# Below the grace that the daemon gives.
TERMINATE = 5.0
EXPIRED = 124  # as of timeout(1)
NOT_FOUND = 127


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "exo-rkllm npu run [-h] [--name NAME] -- COMMAND [ARGUMENT ...]"
    parser.add_argument("action", choices=["run"], help="run the command after -- as soon as no model computes")
    parser.add_argument("--name", help="what the daemon's status calls it (default: the command's name)")
    parser.epilog = (
        "No model computes until the command has ended. It is ended when it takes longer than [dispatch]\n"
        "lease_timeout, or when the daemon stops.\n"
        "Exit codes: the command's own; 124 if it was ended, 1 if it did not get the NPU.\n"
        "Programs that take many short turns can speak to the lease socket themselves: see docs/neighbours.md."
    )


def main(args: argparse.Namespace) -> int:
    command: list[str] = args.command
    if not command:
        raise UsageError("npu run wants a command.", "exo-rkllm npu run -- COMMAND")
    lease = open_lease()
    lease.acquire(args.name or Path(command[0]).name)
    try:
        return run(command, lease)
    finally:
        lease.release()


def run(command: list[str], lease: Lease) -> int:
    """The command's exit code. It inherits the lease: if this process is killed, the NPU stays the command's."""
    with forwarded() as forward:
        try:
            process = subprocess.Popen(command, pass_fds=[lease.socket.fileno()])
        except OSError as error:
            print(f"exo-rkllm: {command[0]} cannot be run: {error.strerror}.", file=sys.stderr)
            return NOT_FOUND
        forward(process)
        ended = not exits_first(process, lease)
        if ended:
            why = "its time is over" if lease.message() == "EXPIRED" else "the daemon is gone"
            print(f"exo-rkllm: {command[0]} has to give the NPU back, since {why}.", file=sys.stderr)
            process.terminate()
            try:
                process.wait(TERMINATE)
            except subprocess.TimeoutExpired:
                process.kill()
        code = process.wait()
    return EXPIRED if ended else 128 - code if code < 0 else code


def exits_first(process: subprocess.Popen[bytes], lease: Lease) -> bool:
    """Waits for the command's end or for a word of the daemon, without polling either."""
    with selectors.DefaultSelector() as selector:
        descriptor = os.pidfd_open(process.pid)
        try:
            selector.register(descriptor, selectors.EVENT_READ)
            selector.register(lease.socket, selectors.EVENT_READ)
            return any(key.fileobj == descriptor for key, _ in selector.select())
        finally:
            os.close(descriptor)


@contextmanager
def forwarded() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """SIGTERM and SIGHUP go on to the process that is named, those that came before included.

    Ctrl-C reaches it from the terminal by itself.
    """
    targets: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        for process in targets:
            process.send_signal(number)
        if not targets:
            early.append(number)

    def forward(process: subprocess.Popen[bytes]) -> None:
        targets.append(process)
        for number in early:
            process.send_signal(number)

    handlers = {signal.SIGTERM: on_signal, signal.SIGHUP: on_signal, signal.SIGINT: lambda _number, _frame: None}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield forward
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
