"""A simulated model behind the real engine and its child process, for the tables."""

from __future__ import annotations

import os
import platform
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from exo_rkllm.backends.base import JSON
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.backends.rkllm_file import RkllmFile
from exo_rkllm.runtime.locate import only
from simulator.model_file import SimModel, write

VERSION = "1.3.0"
LIBRARY = Path(__file__).parent.parent / "build" / "simulator" / platform.machine() / VERSION / "librkllmrt.so"
CONTEXT = 1 << 20


class BenchModel(RkllmFile):
    """Rendered prompts, as the daemon sends them."""

    @property
    def options(self) -> Mapping[str, JSON]:
        return {}


def board(root: Path) -> None:
    """The two files of a board that the simulated library reads."""
    tree = root / "sys" / "firmware" / "devicetree" / "base"
    tree.mkdir(parents=True)
    (tree / "compatible").write_bytes(b"xunlong,orangepi-5-plus\0rockchip,rk3588\0")
    driver = root / "sys" / "module" / "rknpu"
    driver.mkdir(parents=True)
    (driver / "version").write_text("0.9.8\n")
    os.environ["RKLLM_SIM_ROOT"] = str(root)


@asynccontextmanager
async def engine(*, tokens_per_second: float = 0.0) -> AsyncIterator[RkllmEngine]:
    """A loaded engine whose every token's text is the clock at its callback."""
    with TemporaryDirectory() as folder:
        board(Path(folder))
        situation = SimModel(
            reply="one two three four five", endless=True, clock=True, max_context=CONTEXT, decode_tps=tokens_per_second
        )
        model = write(Path(folder) / "bench.rkllm", situation)
        loaded = RkllmEngine(BenchModel(model, CONTEXT), EngineHost(lambda _lines: None, only(LIBRARY)))
        await loaded.initialize()
        try:
            yield loaded
        finally:
            await loaded.close()
