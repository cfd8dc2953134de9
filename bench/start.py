"""How long commands take to answer, and what a child weighs before it holds anything."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.table import Row, show
from exo_rkllm.runner.launch import FLAGS

ROUNDS = 10
CHILD = "import exo_rkllm.runner.child; print(open('/proc/self/statm').read().split()[1])"


def seconds(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def child_megabytes() -> float:
    pages = subprocess.run([sys.executable, *FLAGS, "-c", f"import sys; sys.path.insert(0, '.'); {CHILD}"],
                           check=True, capture_output=True, text=True).stdout  # fmt: skip
    return int(pages) * 4096 / 1e6


def main() -> None:
    helps = [seconds(sys.executable, "-m", "exo_rkllm", "--help") for _ in range(ROUNDS)]
    weights = [child_megabytes() for _ in range(ROUNDS)]
    show(
        "starting",
        [
            Row("exo-rkllm --help", "s", helps, "0.15"),
            Row("the child's own memory, nothing loaded", "MB", weights, "16"),
        ],
    )
