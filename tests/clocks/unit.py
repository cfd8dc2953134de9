"""The privileged unit without systemd, and what a board's files say before and after it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from exo_rkllm.board.clocks import clock_controls

REPOSITORY = Path(__file__).parents[2]


def governors(root: Path) -> dict[str, str]:
    return {knob.name: knob.governor.read_text().strip() for knob in clock_controls(root)}


def everything(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes().strip()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


class Unit:
    """The program as systemd starts it: the listening socket as descriptor 3, and `--restore` when it has ended."""

    def __init__(self, root: Path, folder: Path, address: Path) -> None:
        self.root = root
        self.socket = address
        self.saved = folder / "governors.json"
        self.environment = {**os.environ, "RUNTIME_DIRECTORY": str(folder), "PYTHONPATH": str(REPOSITORY)}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.socket))
        self.listener.listen()
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        number = self.listener.fileno()
        launcher = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3);"
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
            "os.execv(sys.executable, [sys.executable, '-m', 'exo_rkllm.board.clocks_unit', '--root', sys.argv[2]])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", launcher, str(number), str(self.root)],
            env=self.environment,
            pass_fds=[number],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> tuple[int, str]:
        assert self.process is not None
        said, _ = self.process.communicate(timeout=10)
        return self.process.returncode, said

    def stop_post(self) -> None:
        command = [sys.executable, "-m", "exo_rkllm.board.clocks_unit", "--restore", "--root", str(self.root)]
        subprocess.run(command, env=self.environment, check=True, timeout=10)

    def close(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.communicate()
        self.listener.close()
