"""The command on a pseudo-terminal of its own, where Ctrl-C is a key."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import subprocess
import sys
import termios
import time
from collections.abc import Mapping

STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    def __init__(self, *argv: str, environment: Mapping[str, str] = os.environ) -> None:
        self._fd, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x18\x00\x50\x00\x00\x00\x00\x00")  # 24 lines of 80 columns
        self.process = subprocess.Popen(
            ["env", "--default-signal=INT", sys.executable, "-m", "exo_rkllm", *argv],  # whoever started the tests
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**environment, "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads here
        )
        os.close(theirs)
        os.set_blocking(self._fd, False)
        self.screen = ""

    @property
    def text(self) -> str:
        """What was written since the last `type`, without styles."""
        return STYLE.sub("", self.screen).replace("\r\n", "\n")

    def until(self, text: str, seconds: float = 20.0) -> str:
        ends = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < ends, self.screen
            try:
                self.screen += os.read(self._fd, 65536).decode(errors="replace")
            except (BlockingIOError, OSError):
                time.sleep(0.01)
        return self.text

    def type(self, text: str) -> None:
        self.screen = ""
        os.write(self._fd, text.encode())

    def say(self, line: str, answer: str) -> str:
        """Types a line, waits for what it brings and for the next prompt, and returns all of it."""
        self.type(line + "\r")
        seen = self.until(answer)
        if not seen.partition(answer)[2].rstrip(" ").endswith(">>>"):
            self.until("\n>>> ")
        return self.text

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._fd)
