"""A bare .rkllm file as a model: what is asked by a path and has no catalogue entry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exo_rkllm.backends.base import JSON, Model, Sampling


class RkllmFile(Model):
    """The template inside the file has to do."""

    def __init__(self, path: Path, context: int = 0, sampling: Sampling | None = None) -> None:
        self._path = path
        self._context = context
        self._sampling = sampling or Sampling()

    @property
    def id(self) -> str:
        return self._path.stem

    @property
    def engine(self) -> str:
        return "rkllm"

    @property
    def path(self) -> Path | None:
        return self._path

    @property
    def context(self) -> int:
        return self._context

    @property
    def sampling(self) -> Sampling:
        return self._sampling

    @property
    def options(self) -> Mapping[str, JSON]:
        return {"runtime_template": True}
