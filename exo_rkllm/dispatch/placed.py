"""A model with the NPU domain that dispatch chose for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exo_rkllm.backends.base import JSON, Model, Sampling, Tokenizer
from exo_rkllm.runner.preload import Preload


class PlacedModel(Model):
    """The card's own model in everything but one option."""

    def __init__(self, model: Model, domain: int) -> None:
        self._model = model
        self._domain = domain

    @property
    def id(self) -> str:
        return self._model.id

    @property
    def engine(self) -> str:
        return self._model.engine

    @property
    def path(self) -> Path | None:
        return self._model.path

    @property
    def context(self) -> int:
        return self._model.context

    @property
    def options(self) -> Mapping[str, JSON]:
        return {**self._model.options, "base_domain_id": self._domain}

    @property
    def sampling(self) -> Sampling:
        return self._model.sampling

    @property
    def reuse(self) -> bool:
        return self._model.reuse

    @property
    def preload(self) -> Preload:
        return self._model.preload

    def tokenizer(self) -> Tokenizer | None:
        return self._model.tokenizer()
