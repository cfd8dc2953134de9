"""A neighbour on the NPU: takes leases by the documented protocol, and notes when somebody computes beside it.

`python -m tests.daemon.neighbour SOCKET LOCK NOTES SEED`: ten turns, unless a crash of its own (SIGKILL) ends it.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

from exo_rkllm.client.control import Client

TURNS = 10


def main(path: Path, lock: str, notes: str, seed: int) -> None:
    dice = random.Random(seed)
    log = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(word: str) -> None:
        os.write(log, f"{word} {seed}\n".encode())

    def crash() -> None:
        note("crashed")
        os.kill(os.getpid(), signal.SIGKILL)

    for turn in range(TURNS):
        # Opened before the socket: a dying process closes it first. The kernel frees a lock of this kind right then,
        # and one of flock(2) some time after it has closed the socket.
        held = os.open(lock, os.O_RDWR | os.O_CREAT)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(f"ACQUIRE neighbour {seed}\n".encode())
            if seed % 4 == 0 and turn == 3:
                crash()  # while it waits, or just as it is granted
            answer = connection.makefile().readline()
            note(answer.strip())
            try:
                fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                note("overlap")
            time.sleep(dice.uniform(0, 0.02))
            status = Client(path.with_name("control.sock"), 10.0).get("/control/status")
            if any(model["running"] for model in status["models"]):
                note("beside a model")
            if seed % 3 == 0 and turn == 5:
                crash()
            os.close(held)
            if turn % 2:
                connection.sendall(b"RELEASE\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
