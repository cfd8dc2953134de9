"""One encoder in its own child: started by the first picture, kept until its language model is unloaded."""

from __future__ import annotations

import asyncio
from pathlib import Path

from exo_rkllm.errors import EncoderLost, RunnerLost
from exo_rkllm.rknn.locate import find
from exo_rkllm.rknn.values import EncoderParams
from exo_rkllm.runner.jobs import PictureJob
from exo_rkllm.runner.launch import ENCODER
from exo_rkllm.runner.limits import RunnerLimits
from exo_rkllm.runner.parent import LineSink, Runner
from exo_rkllm.vision.pictures import only_rows
from exo_rkllm.vision.values import Encoding

# The slowest encode that anybody reported took 12 s (Qwen3-VL at 896 pixels); an encode cannot be aborted.
LIMITS = RunnerLimits(prefill=120.0, abort=120.0)


class Encoder:
    """`library` is librknnrt's path, None to look for it; `core_mask` 0 leaves the NPU's cores to the library."""

    def __init__(self, model: str, file: Path, library: Path | None, core_mask: int, report: LineSink) -> None:
        self._name = f"{model}'s encoder"
        self._params = EncoderParams(str(file), core_mask)
        self._library = library
        self._report = report
        self._lock = asyncio.Lock()
        self._runner: Runner | None = None
        self.runs = 0  # pictures that were encoded

    async def encode(self, pixels: memoryview) -> Encoding:
        """Loads the encoder where it is not loaded. Raises EncoderLost where its process ends: the next call starts
        another one."""
        async with self._lock:
            try:
                if self._runner is None or self._runner.gone:
                    self._runner = await self._start()
                rows = await only_rows(self._runner, PictureJob("encoding"), pixels)
            except RunnerLost as error:
                self._runner = None
                raise EncoderLost(error.sentence, error.hint) from error
        self.runs += 1
        return Encoding(rows.rows, rows.width, rows.data)

    async def _start(self) -> Runner:
        order = {"library": str(find(self._library)), "params": self._params.to_json()}
        runner, _ = await Runner.start_program(ENCODER, self._name, order, report=self._report, limits=LIMITS)
        return runner

    @property
    def memory(self) -> int:
        """Resident bytes, 0 while it is not loaded."""
        return 0 if self._runner is None else self._runner.memory or 0

    async def settled(self) -> None:
        """Returns when no encode that nobody waits for is on the NPU any more."""
        if self._runner is not None:
            await self._runner.settled()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.close()
