"""The privileged unit, started by systemd when the daemon connects: clocks are raised while a connection is open.

The daemon stays connected while a model is loaded. If it dies, the kernel closes the connection; if this program
dies, systemd runs `ExecStopPost=... --restore`. There are no commands: a connection is all that a client can say.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from exo_rkllm.board.clocks import ClocksOutcome, raise_clocks, restore_clocks

# sd_listen_fds(3): the first socket that systemd passes.
FIRST_SOCKET = 3
# Seconds after which it ends without a connection, for instance when it was started by hand.
NOBODY_CONNECTS = 2.0
# The daemon needs one connection. Without a limit a client could use up the descriptors and end this program.
MOST_HOLDERS = 32
NOTE = "governors.json"


class Terminated(Exception):
    """SIGTERM came."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="exo-rkllm-clocks", description="Keeps the clocks raised while a client is connected."
    )
    parser.add_argument("--restore", action="store_true", help="only restore the saved clocks, after a crash")
    parser.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    saved = Path(os.environ.get("RUNTIME_DIRECTORY", "/run/exo-rkllm-clocks")) / NOTE
    if args.restore:
        _report("restored", restore_clocks(args.root, saved))
        return 0
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        sys.stderr.write("exo-rkllm-clocks: systemctl start exo-rkllm-clocks.socket starts this.\n")
        return 2
    signal.signal(signal.SIGTERM, _terminate)
    with socket.socket(fileno=FIRST_SOCKET) as listener:
        try:
            hold(listener, args.root, saved)
        except Terminated:
            pass
        finally:
            _report("restored", restore_clocks(args.root, saved))
    return 0


def hold(listener: socket.socket, root: Path, saved: Path) -> None:
    """Raise the clocks until the last connection is gone; a later one makes systemd start this again."""
    holders: dict[int, socket.socket] = {}
    answer = b""
    try:
        while ready := select.select([listener, *holders.values()], [], [], None if holders else NOBODY_CONNECTS)[0]:
            for source in ready:
                if source is listener:
                    holder, _ = listener.accept()
                    if len(holders) == MOST_HOLDERS:
                        holder.close()
                        continue
                    if not holders:
                        outcome = raise_clocks(root, saved)
                        answer = json.dumps(asdict(outcome)).encode() + b"\n"
                        _report("raised", outcome)
                    holders[holder.fileno()] = holder
                    _answer(holder, answer)
                elif _has_left(source):
                    del holders[source.fileno()]
                    source.close()
            if not holders:
                return
    finally:
        for holder in holders.values():
            holder.close()


def _has_left(holder: socket.socket) -> bool:
    """Whether the client has closed its end; data is thrown away."""
    try:
        return not holder.recv(4096)
    except OSError:
        return True


def _answer(holder: socket.socket, answer: bytes) -> None:
    holder.setblocking(False)
    with contextlib.suppress(OSError):  # the next round notices a client that has left
        holder.send(answer)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _report(what: str, outcome: ClocksOutcome) -> None:
    """To the journal."""
    if outcome.done:
        sys.stdout.write(f"Clocks {what}: {', '.join(outcome.done)}.\n")
        sys.stdout.flush()
    for sentence in outcome.failed:
        sys.stderr.write(f"{sentence}\n")


if __name__ == "__main__":
    raise SystemExit(main())
