"""`make run`: a simulated Orange Pi 5 Plus, a demo model, one streamed answer, and a daemon that stays up.

Everything it needs it makes under build/demo; nothing of the machine is touched. The answer comes from the simulator,
and says so: there is no NPU here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "build" / "demo"
sys.path.insert(0, str(ROOT))

from simulator import boards, model_file  # noqa: E402: the clone's root has to be on the path first

VERSION = "1.3.0"
QUESTION = "What are you, and where do you run?"


def environment() -> dict[str, str]:
    """A board's tree, the simulated library, and one model, as a daemon or a command would find them."""
    board = DEMO / "board"
    if not board.exists():
        boards.write("orangepi-5-plus", board)
    models = DEMO / "models"
    models.mkdir(parents=True, exist_ok=True)
    machine = os.uname().machine
    return {
        **os.environ,
        "RKLLM_SIM_ROOT": str(board),
        "EXO_RKLLM_BOARD_ROOT": str(board),
        "EXO_RKLLM_MODELS_DIRECTORY": str(models),
        "EXO_RKLLM_RUNTIME_LIBRARY": str(ROOT / "build" / "simulator" / machine / VERSION / "librkllmrt.so"),
    }
