"""A model of the running daemon as an engine of this process: its queue, its copy in memory, its template."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from exo_rkllm.backends.base import Capabilities, Engine, GenerationEvent, GenerationRequest, Model
from exo_rkllm.classic.source import DaemonSource
from exo_rkllm.client.control import Client
from exo_rkllm.errors import ExoRkllmError, UsageError


class NamedModel(Model):
    """All that this process knows of it."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def id(self) -> str:
        return self._name

    @property
    def engine(self) -> str:
        return "daemon"

    @property
    def path(self) -> Path | None:
        return None

    @property
    def context(self) -> int:
        return 0


class ThroughDaemon(Engine):
    """Closing it leaves the model where it is: the daemon unloads what nobody asks any more."""

    def __init__(self, name: str, client: Client) -> None:
        super().__init__(NamedModel(name))
        self._client = client
        self._daemon = DaemonSource(client.path)

    async def initialize(self) -> None:
        load = self._client.post
        await asyncio.to_thread(load, "/control/load", model=self.model.id)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(chat=True)

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        return self._daemon.answer(request)

    async def abort(self, request_id: str) -> None:
        """Whoever listens leaves, which ends it."""

    async def lost(self) -> ExoRkllmError:
        raise UsageError("Whether the daemon is lost shows when it is asked.")

    async def close(self) -> None:
        """Nothing here is ours."""
