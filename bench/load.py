"""From the order to load a model until its process has opened it: a new process, and one that waits, in turns."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.rig import LIBRARY, board
from bench.table import Row, show
from exo_rkllm.runner.parent import Runner
from exo_rkllm.runner.spare import SpareChild
from exo_rkllm.runtime.values import LoadParams
from simulator.model_file import SimModel, write

ROUNDS = 15
# What a spare gets to import everything before the next round, far more than it takes.
SETTLE = 0.5


async def load(model: Path, spare: SpareChild | None) -> float:
    """Milliseconds, the simulated library's own load of an empty model included."""
    began = time.perf_counter()
    runner, _ = await Runner.start(
        "bench", LIBRARY, LoadParams(str(model), max_context_len=4096), report=lambda _: None, spare=spare
    )
    took = (time.perf_counter() - began) * 1000
    await runner.close()
    return took


async def rounds(folder: Path) -> tuple[list[float], list[float]]:
    board(folder)
    model = write(folder / "bench.rkllm", SimModel(max_context=4096))
    fresh: list[float] = []
    waiting: list[float] = []
    spare = SpareChild()
    spare.refill()
    try:
        for _ in range(ROUNDS):
            await asyncio.sleep(SETTLE)
            fresh.append(await load(model, None))
            waiting.append(await load(model, spare))
    finally:
        spare.close()
    return fresh, waiting


def main() -> None:
    with TemporaryDirectory() as folder:
        fresh, waiting = asyncio.run(rounds(Path(folder)))
    show(
        "loading an empty model",
        [
            Row("in a new process", "ms", fresh, ""),
            Row("in the process that waits", "ms", waiting, "15"),
        ],
    )
