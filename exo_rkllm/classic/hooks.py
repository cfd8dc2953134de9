"""What the engine changes inside a running classic exo, so that its models are served from this board.

Each change wraps a function of the host once, however often it is asked for, and passes on whatever is not ours.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from exo_rkllm import models
from exo_rkllm.board.detect import detect
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.classic.token_ids import end_ids
from exo_rkllm.detection import NAME, detect_rockchip_npu
from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.models import ENGINE, classic_id

MARK = "_exo_rkllm_wraps"


def wrap_once(owner: Any, name: str, wrapper: Callable[[Any], Callable[..., Any]]) -> bool:
    """Replace `owner.name` by what `wrapper` makes of it; False where the host has no such function."""
    original = getattr(owner, name, None)
    if original is None:
        return False
    if not hasattr(original, MARK):
        wrapping = functools.wraps(original)(wrapper(original))
        setattr(wrapping, MARK, True)
        setattr(owner, name, wrapping)
    return True


# ── the engine stays ─────────────────────────────────────────────────────────────────────────────


def keep_engine(ours: type[Any]) -> bool:
    """exo replaces every engine it does not know when a second node appears (classic-plugin 2.6); not `ours`."""

    def wrapper(select: Any) -> Callable[..., Any]:
        async def keep(self: Any, *args: Any, **keywords: Any) -> Any:
            if isinstance(getattr(self, "inference_engine", None), ours):
                return None
            return await select(self, *args, **keywords)

        return keep

    node = getattr(sys.modules.get("exo.orchestration.node"), "Node", None)
    return wrap_once(node, "select_best_inference_engine", wrapper)


# ── the host's names for our models and for this board ───────────────────────────────────────────


def name_models() -> None:
    """No host asks a plugin for the names that tinychat shows (classic-plugin 2.4)."""
    names = getattr(sys.modules.get("exo.models"), "pretty_name", {})
    for name, pretty in models.RKLLM_PRETTY_NAMES.items():
        names.setdefault(name, pretty)


def name_the_npu() -> None:
    """Have exo's topology and terminal view show the board with its NPU; exo asks tinygrad, which knows none."""
    host: Any = sys.modules.get("exo.topology.device_capabilities")

    def wrapper(original: Any) -> Callable[..., Any]:
        async def capabilities() -> Any:
            if detect_rockchip_npu() is None:
                return await original()
            board = detect(Path(os.environ.get("EXO_RKLLM_BOARD_ROOT") or "/"))
            assert board.soc is not None, "an NPU without its SoC is not usable"  # noqa: S101
            tops, memory = board.soc.tops, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            return host.DeviceCapabilities(
                model=f"{board.title}, {NAME} with {tops:g} TOPS",
                chip=f"{NAME} ({board.soc.title})",
                memory=memory >> 20,
                flops=host.DeviceFlops(fp32=0, fp16=tops / 2, int8=tops),
            )

        return capabilities

    wrap_once(host, "linux_device_capabilities", wrapper)


# ── the host's own tokenizer of our models ───────────────────────────────────────────────────────


def fit_tokenizers(entries: Callable[[], tuple[Entry, ...]]) -> bool:
    """exo reads a tokenizer of its own from a model's folder, to render the question and to decode the answer.

    It needs more than a folder may have: a class, a template, an end token. What is missing there is taken from what
    the model's entry knows; tokenizers of other models' folders are left as they are.
    """

    def wrapper(resolve: Any) -> Callable[..., Any]:
        async def read(place: Any) -> Any:
            ours = {entry.folder.absolute(): entry for entry in entries()}
            entry = ours.get(Path(place))
            if entry is None:
                return await resolve(place)
            try:
                tokenizer = await resolve(place)
            except Exception:  # transformers raises whatever its parts raise
                tokenizer = fast_tokenizer(entry)
                if tokenizer is None:
                    raise
            return await asyncio.get_running_loop().run_in_executor(None, fit, tokenizer, entry)

        return read

    return wrap_once(sys.modules.get("exo.inference.tokenizers"), "_resolve_tokenizer", wrapper)


def fast_tokenizer(entry: Entry) -> Any:
    """For a folder that has a tokenizer.json and does not say of what class it is; None where there is no such file."""
    path = entry.folder / "tokenizer.json"
    if not path.is_file():
        return None
    return importlib.import_module("transformers").PreTrainedTokenizerFast(tokenizer_file=str(path))


def fit(tokenizer: Any, entry: Entry) -> Any:
    """The host's tokenizer with a template and an end where it has none, and which gives no text for ids of the end.

    exo decodes the token that ends an answer as well, and one that stands for no token at all ends in HTTP 500.
    """
    ends = end_ids(entry)
    if ends and getattr(tokenizer, "eos_token_id", None) is None and hasattr(tokenizer, "convert_ids_to_tokens"):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    if getattr(tokenizer, "chat_template", "") is None:
        with suppress(ExoRkllmError):  # exo names what is missing when it is asked
            tokenizer.chat_template = entry.chat_format().template.text
    decode = tokenizer.decode

    def without_ends(tokens: Any, **keywords: Any) -> Any:
        ids = tokens if hasattr(tokens, "__iter__") else [tokens]
        kept = [int(one) for one in ids if int(one) >= 0 and int(one) not in ends]
        return decode(kept, **{"skip_special_tokens": True, **keywords})

    tokenizer.decode = without_ends
    return tokenizer


# ── models need no download ──────────────────────────────────────────────────────────────────────


class LocalShards:
    """In front of exo's downloader, which asks the internet for every model: ours are on the board already."""

    def __init__(self, inner: Any, entries: Callable[[], tuple[Entry, ...]]) -> None:
        self.inner = inner
        self._entries = entries

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def ensure_shard(self, shard: Any, inference_engine_name: str = ENGINE) -> Path:
        """Hosts pass two arguments; the guide for plugin authors has one."""
        if inference_engine_name == ENGINE:
            for entry in self._entries():
                if shard.model_id in (entry.id, classic_id(entry)):
                    return entry.folder
        parameters = inspect.signature(self.inner.ensure_shard).parameters
        arguments = (shard, inference_engine_name) if len(parameters) > 1 else (shard,)
        folder: Path = await self.inner.ensure_shard(*arguments)
        return folder

    async def get_shard_download_status(self, inference_engine_name: str) -> AsyncIterator[tuple[Path, Any]]:
        if inference_engine_name != ENGINE:
            async for status in self.inner.get_shard_download_status(inference_engine_name):
                yield status
            return
        for entry in self._entries():
            yield entry.folder, complete(entry)


def complete(entry: Entry) -> Any:
    """The host's own value for a finished download; a size of 0 would count as unfinished (classic-plugin 2.5)."""
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


def use_local_shards(downloader: Any, entries: Callable[[], tuple[Entry, ...]]) -> None:
    """Put LocalShards inside the host's one downloader, so that the node's own reference sees it, too."""
    inner = getattr(downloader, "shard_downloader", None)
    if inner is not None and not isinstance(inner, LocalShards):
        downloader.shard_downloader = LocalShards(inner, entries)
