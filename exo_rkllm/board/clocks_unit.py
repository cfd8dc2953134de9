"""The privileged piece, started by systemd when the daemon connects: clocks are up while a connection is open.

The daemon keeps its connection while a model is loaded. The kernel closes it when the daemon dies, so nobody has to
notice a crash; this program's own end is covered by `ExecStopPost=... --restore`, which systemd runs whatever
happened. It takes no commands: being connected is the only thing that can be said to it.
"""

from __future__ import annotations

import argparse
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

# sd_listen_fds(3): systemd passes sockets from this number on.
FIRST_SOCKET = 3
# Started without anybody connecting, by hand for instance, it ends again.
PATIENCE = 2.0
NOTE = "governors.json"


class Terminated(Exception):
    """systemd wants it to end."""


def main(argv: list[str] | None = None) -> int:
    own = argparse.ArgumentParser(
        prog="exo-rkllm-clocks", description="Holds the clocks up while somebody is connected."
    )
    own.add_argument("--restore", action="store_true", help="only put back what was there, after a crash")
    own.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)
    args = own.parse_args(argv)
    saved = Path(os.environ.get("RUNTIME_DIRECTORY", "/run/exo-rkllm-clocks")) / NOTE
    if args.restore:
        _say("put back", restore_clocks(args.root, saved))
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
            _say("put back", restore_clocks(args.root, saved))
    return 0


def hold(listener: socket.socket, root: Path, saved: Path) -> None:
    """Returns when the last connection is gone; one that comes afterwards makes systemd start this again."""
    holders: dict[int, socket.socket] = {}
    told = b""
    try:
        while ready := select.select([listener, *holders.values()], [], [], None if holders else PATIENCE)[0]:
            for source in ready:
                if source is listener:
                    holder, _ = listener.accept()
                    if not holders:
                        outcome = raise_clocks(root, saved)
                        told = json.dumps(asdict(outcome)).encode() + b"\n"
                        _say("raised", outcome)
                    holders[holder.fileno()] = holder
                    _tell(holder, told)
                elif _left(source):
                    del holders[source.fileno()]
                    source.close()
            if not holders:
                return
    finally:
        for holder in holders.values():
            holder.close()


def _left(holder: socket.socket) -> bool:
    """Whatever is said is thrown away; the end is what counts."""
    try:
        return not holder.recv(4096)
    except OSError:
        return True


def _tell(holder: socket.socket, told: bytes) -> None:
    holder.setblocking(False)
    try:
        holder.send(told)
    except OSError:
        return  # it left already, which the next round sees


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _say(what: str, outcome: ClocksOutcome) -> None:
    """To the journal."""
    if outcome.done:
        sys.stdout.write(f"Clocks {what}: {', '.join(outcome.done)}.\n")
        sys.stdout.flush()
    for sentence in outcome.failed:
        sys.stderr.write(f"{sentence}\n")


if __name__ == "__main__":
    raise SystemExit(main())
