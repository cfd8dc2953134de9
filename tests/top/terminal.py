"""A real terminal to look at: tmux, on a server of its own."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

TMUX = shutil.which("tmux")


class Terminal:
    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def tmux(self, *arguments: str) -> str:
        command = [str(TMUX), "-f", "/dev/null", "-S", str(self._socket), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout

    def screen(self, *, colours: bool = False) -> list[str]:
        """What stands there, line by line, blanks at the ends included."""
        return self.tmux("capture-pane", "-p", "-N", *(["-e"] if colours else [])).removesuffix("\n").split("\n")

    def type(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        self.tmux("resize-window", "-x", str(width), "-y", str(height))

    def until(self, condition: Callable[[list[str]], bool], seconds: float = 15.0) -> list[str]:
        deadline = time.monotonic() + seconds
        while True:
            seen = self.screen()
            if condition(seen):
                return seen
            assert time.monotonic() < deadline, "\n".join(seen)
            time.sleep(0.05)


@contextlib.contextmanager
def terminal(
    folder: Path, width: int, height: int, command: list[str], environment: Mapping[str, str]
) -> Iterator[Terminal]:
    """Runs the command in it; `exited N` stands on the screen once it has ended."""
    found = Terminal(folder / "tmux")
    assignments = [f"{name}={value}" for name, value in environment.items()]
    line = f'trap : INT; {shlex.join(["env", *assignments, *command])}; echo "exited $?"; exec sleep 60'
    locale = {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color", "PATH": os.environ["PATH"]}
    size = ["-x", str(width), "-y", str(height)]
    start = [
        str(TMUX),
        "-f",
        "/dev/null",
        "-u",
        "-S",
        str(folder / "tmux"),
        "new-session",
        "-d",
        *size,
        "sh",
        "-c",
        line,
    ]
    subprocess.run(start, env=locale, check=True, timeout=10)
    try:
        yield found
    finally:
        found.tmux("kill-server")
