"""Whoever waits for a model to be loaded or unloaded."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from exo_rkllm.dispatch.request import copy_of
from exo_rkllm.errors import ExoRkllmError

T = TypeVar("T")


class Waiters(Generic[T]):
    """By model; one that has left is no longer told."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[asyncio.Future[T]]] = {}

    def add(self, model: str) -> asyncio.Future[T]:
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(model, []).append(waiter)
        return waiter

    def settle(self, model: str, result: T, error: ExoRkllmError | None = None) -> None:
        for waiter in self._waiting.pop(model, ()):
            if not waiter.done():
                waiter.set_result(result) if error is None else waiter.set_exception(copy_of(error))
