"""`make run`: a simulated Orange Pi 5 Plus, a demo model, one streamed answer, and whatever stays up after it.

Everything it needs it makes under build/demo; nothing of the machine is touched. The answer comes from the simulator,
and says so: there is no NPU here.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

from simulator import boards, model_file

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "build" / "demo"
LIBRARY = ROOT / "build" / "simulator" / platform.machine() / "1.3.0" / "librkllmrt.so"
MODEL = "Qwen2.5-1.5B-simulated_W8A8_RK3588.rkllm"
BOARD = "orangepi-5-plus"
QUESTION = "What are you, and where do you run?"


def environment() -> dict[str, str]:
    """A board's tree and a library, as a daemon or a command would find them on a board."""
    board = DEMO / BOARD
    if not board.exists():
        boards.write(BOARD, board)
    return {
        **os.environ,
        "RKLLM_SIM_ROOT": str(board),
        "EXO_RKLLM_BOARD_ROOT": str(board),
        "EXO_RKLLM_RUNTIME_LIBRARY": str(LIBRARY),
    }


def model() -> Path:
    """As fast as the vendor's table says for a real one of this name."""
    path = DEMO / MODEL
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model_file.write(path, model_file.SimModel(name="Qwen2.5-1.5B-simulated", speed="rk3588/qwen2.5-1.5b"))
    return path


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--once", action="store_true", help="end after the demonstration")
    arguments.parse_args()
    print(f"A simulated {BOARD} with {MODEL}, at the speed of the vendor's table.\n", flush=True)
    command = [sys.executable, "-m", "exo_rkllm", "run", str(model()), QUESTION, "--verbose"]
    return subprocess.run(command, env=environment(), cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
