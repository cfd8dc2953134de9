"""The packages' files, run by Debian's own Python with Debian's modules: years older than those of a .venv."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from exo_rkllm import __version__
from tests.packaging.conftest import Built

PYTHON = "/usr/bin/python3"
PATIENCE = 60.0
PROGRAM = """\
import sys
sys.path.insert(0, sys.argv.pop(1))
from exo_rkllm.__main__ import main
raise SystemExit(main())
"""
# Its package depends on exo-rkllm, whose table of the vendor's speeds it reads.
SIMULATOR = """\
import sys
sys.path[:0] = sys.argv.pop(1).split(":")
from simulator.command import main
raise SystemExit(main())
"""


@dataclass(frozen=True)
class Installed:
    built: Built
    environment: Mapping[str, str]

    def command(self, *argv: str) -> list[str]:
        library = self.built.exo_rkllm.files / "usr/lib/python3/dist-packages"
        return [PYTHON, "-IB", "-c", PROGRAM, str(library), *argv]

    def run(self, *argv: str) -> str:
        done = subprocess.run(self.command(*argv), env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def simulator(self, *argv: str) -> str:
        packages = self.built.exo_rkllm.files / "usr/lib/python3/dist-packages"
        path = f"{self.built.simulator.files / 'usr/share/exo-rkllm-simulator'}:{packages}"
        done = subprocess.run([PYTHON, "-IB", "-c", SIMULATOR, path, *argv], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def installed(built: Built, tmp_path: Path) -> Installed:
    board = tmp_path / "board"
    environment = {
        "PATH": os.defpath,
        "HOME": str(tmp_path),
        "EXO_RKLLM_API_PORT": str(free_port()),
        "EXO_RKLLM_BOARD_ROOT": str(board),
        "EXO_RKLLM_CLUSTER_ENABLED": "false",
        "EXO_RKLLM_CONTROL_SOCKET": str(tmp_path / "control.sock"),
        "EXO_RKLLM_MODELS_DIRECTORY": str(tmp_path / "models"),
        "EXO_RKLLM_RUNTIME_LIBRARY": str(built.simulator.files / "usr/lib/exo-rkllm-simulator/1.3.1/librkllmrt.so"),
        "RKLLM_SIM_ROOT": str(board),
    }
    made = Installed(built, environment)
    made.simulator("board", "orangepi-5-plus", str(board))
    made.simulator("model", str(tmp_path / "Demo_W8A8_RK3588.rkllm"), "--reply", "You said {user}.")
    made.run("import", "--offline", str(tmp_path / "Demo_W8A8_RK3588.rkllm"))
    return made


@pytest.fixture
def serving(installed: Installed) -> Iterator[str]:
    url = f"http://127.0.0.1:{installed.environment['EXO_RKLLM_API_PORT']}"
    process = subprocess.Popen(
        installed.command("serve"),
        env=installed.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends and process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=5):
                yield url
                break
            time.sleep(0.1)
        else:
            process.kill()
            pytest.fail(f"The daemon never answered: {process.communicate()[0]}")
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def test_command_prints_its_version(installed: Installed) -> None:
    assert installed.run("--version") == f"exo-rkllm {__version__}\n"
    assert "demo" in installed.run("models")


def test_daemon_streams_an_answer(installed: Installed, serving: str) -> None:
    body = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    asked = urllib.request.Request(
        f"{serving}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
        lines = [line.decode().removeprefix("data: ").strip() for line in answer if line.startswith(b"data: ")]
    assert lines[-1] == "[DONE]"
    pieces = [json.loads(line)["choices"][0]["delta"].get("content") or "" for line in lines[:-1]]
    assert "".join(pieces) == "You said hello."
    with urllib.request.urlopen(f"{serving}/metrics", timeout=PATIENCE) as metrics:
        assert b"\nrknpu_up 1" in metrics.read()
    assert "demo" in installed.run("ps")
