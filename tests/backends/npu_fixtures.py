"""The NPU engine over the simulated library, with what a card may set."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.backends.base import JSON
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.backends.rkllm_file import RkllmFile
from exo_rkllm.config.table import SamplingPolicy
from exo_rkllm.runtime.locate import only
from tests.simulated import Library


class Card(RkllmFile):
    """A file with the options of a card; prompts come rendered, as from the daemon."""

    def __init__(self, path: Path | None, options: Mapping[str, JSON], *, reuse: bool = True, **fields: Any) -> None:
        super().__init__(path or Path("nowhere.rkllm"), **fields)
        self._there = path is not None
        self._options = options
        self._reuse = reuse

    @property
    def path(self) -> Path | None:
        return super().path if self._there else None

    @property
    def options(self) -> Mapping[str, JSON]:
        return self._options

    @property
    def reuse(self) -> bool:
        return self._reuse


@pytest.fixture
def opened(library: Library, board_root: Path) -> Callable[..., Any]:
    """`async with opened(model, options, version="1.3.0", policy="refuse") as engine`."""

    @asynccontextmanager
    async def open_one(
        model: Path,
        options: Mapping[str, JSON] | None = None,
        version: str = "1.3.0",
        *,
        policy: SamplingPolicy = "refuse",
        **fields: Any,
    ) -> AsyncIterator[RkllmEngine]:
        engine = RkllmEngine(
            Card(model, options or {}, **fields), EngineHost(lambda _: None, only(library(version)), sampling=policy)
        )
        await engine.initialize()
        try:
            yield engine
        finally:
            await engine.close()

    return open_one
