"""Somebody at a terminal: answers a command's question when it has been asked, not before."""

from __future__ import annotations

import os
import select
import subprocess
import time

from tests.system.substrate.computer import Computer


def at_terminal(computer: Computer, script: str, prompt: str, answer: str, timeout: float = 120) -> str:
    """What the script prints on a terminal of its own, whose user types `answer` once `prompt` is there."""
    end = time.monotonic() + timeout * computer.slowness
    ours, theirs = os.openpty()
    command = ["setsid", "--ctty", "--wait", *computer.command(), "bash", "--norc", "-c", script]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        answered = False
        while time.monotonic() < end and (part := _read(ours, end)):
            said += part
            if prompt.encode() in said and not answered:
                answered = True
                os.write(ours, f"{answer}\n".encode())
        if time.monotonic() >= end:
            process.kill()
    os.close(ours)
    text = said.decode(errors="replace")
    assert process.returncode == 0, f"on {computer.name}: {script}\nended with {process.returncode}:\n{text}"
    return text


def _read(terminal: int, end: float) -> bytes:
    """Empty when nobody has the terminal any more, or at the end."""
    if not select.select([terminal], [], [], max(0.0, end - time.monotonic()))[0]:
        return b""
    try:
        return os.read(terminal, 4096)
    except OSError:  # EIO: how Linux says that the other side is closed
        return b""
