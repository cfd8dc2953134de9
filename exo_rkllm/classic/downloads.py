"""exo's downloader asks the internet for every model, for minutes where there is none; ours are on the board."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from exo_rkllm.catalogue.store import Entry
from exo_rkllm.models import ENGINE, classic_id


class LocalShards:
    """Stands in front of exo's own: answers for our engine, hands everything else on."""

    def __init__(self, inner: Any, entries: Callable[[], tuple[Entry, ...]]) -> None:
        self.inner = inner
        self._entries = entries

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def ensure_shard(self, shard: Any, inference_engine_name: str = ENGINE) -> Path:
        """Hosts give two arguments and take two; the guide for plugin authors has one."""
        if inference_engine_name == ENGINE:
            for entry in self._entries():
                if shard.model_id in (entry.id, classic_id(entry)):
                    return entry.folder
        takes = inspect.signature(self.inner.ensure_shard).parameters
        given = (shard, inference_engine_name) if len(takes) > 1 else (shard,)
        found: Path = await self.inner.ensure_shard(*given)
        return found

    async def get_shard_download_status(self, inference_engine_name: str) -> AsyncIterator[tuple[Path, Any]]:
        if inference_engine_name != ENGINE:
            async for status in self.inner.get_shard_download_status(inference_engine_name):
                yield status
            return
        for entry in self._entries():
            yield entry.folder, complete(entry)


def complete(entry: Entry) -> Any:
    """In the host's own words; a size of 0 would be taken for something still to come (classic-plugin 2.5)."""
    size = max(1, entry.card.weights.size if entry.card.weights else 1)
    layers = max(entry.card.layers, 1)
    event = importlib.import_module("exo.download.download_progress").RepoProgressEvent
    shard = importlib.import_module("exo.inference.shard").Shard
    return event(
        shard=shard(classic_id(entry), 0, layers - 1, layers),  # its API names the model by this
        repo_id=str(entry.folder),
        repo_revision="local",
        completed_files=1,
        total_files=1,
        downloaded_bytes=size,
        downloaded_bytes_this_session=0,
        total_bytes=size,
        overall_speed=0,
        overall_eta=timedelta(0),
        file_progress={},
        status="complete",
    )


def stand_in_front(given: Any, entries: Callable[[], tuple[Entry, ...]]) -> None:
    """Inside the host's one downloader, so that the node's own reference sees it, too; twice is as good as once."""
    inner = getattr(given, "shard_downloader", None)
    if inner is not None and not isinstance(inner, LocalShards):
        given.shard_downloader = LocalShards(inner, entries)
