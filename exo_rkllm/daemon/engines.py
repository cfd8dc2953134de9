"""Which engine loads a model, what that takes, and what stands in its way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from exo_rkllm.backends.base import Engine, Model
from exo_rkllm.backends.host import Host
from exo_rkllm.board.detect import Board
from exo_rkllm.catalogue.store import Entry
from exo_rkllm.config import Config
from exo_rkllm.dispatch.state import Limits, Needs
from exo_rkllm.errors import ExoRkllmError, NotSupported

Make: TypeAlias = Callable[[Model, Host], Engine]

# A card without a figure: the file, and what the runtime takes besides (reference 3.2, an estimate).
OVERHEAD = 300 << 20
# The first driver whose NPU addresses have more than one window (reference npu-platform, drivers).
SEVERAL_WINDOWS = (0, 9, 6)
WINDOWS = 16


def _rkllm(model: Model, host: Host) -> Engine:
    from exo_rkllm.backends.rkllm import RkllmEngine

    return RkllmEngine(model, host)


def _dummy(model: Model, host: Host) -> Engine:
    from exo_rkllm.backends.dummy import DummyEngine

    return DummyEngine(model)


ENGINES: Mapping[str, Make] = {"rkllm": _rkllm, "dummy": _dummy}
ON_NPU = frozenset({"rkllm"})


def make(model: Model, host: Host) -> Engine:
    if model.engine not in ENGINES:
        raise NotSupported(
            f"{model.id} wants the engine {model.engine!r}, which is not installed.",
            f"There are: {', '.join(sorted(ENGINES))}.",
        )
    return ENGINES[model.engine](model, host)


def needs(model: Model) -> Needs:
    """From the card where there is one; a file is a stat."""
    size = 0
    if model.path is not None:
        try:
            size = model.path.stat().st_size
        except OSError:
            size = 0  # loading it says what is wrong with it
    memory = model.card.memory if isinstance(model, Entry) and model.card.memory else size and size + OVERHEAD
    if model.engine not in ON_NPU:
        return Needs(memory)
    domain = model.options.get("base_domain_id")
    return Needs(memory, max(size, 1), domain if isinstance(domain, int) else None)


def limits(config: Config, board: Board, pinned: frozenset[str]) -> Limits:
    return Limits(
        queue=config.dispatch.queue,
        queue_per_client=config.dispatch.queue_per_client,
        queue_seconds=config.dispatch.queue_timeout,
        keep_alive=config.models.keep_alive,
        max_loaded=config.models.max_loaded,
        pinned=pinned,
        reserve=config.models.reserve_memory,
        domains=windows(board),
        npu_parallel=config.dispatch.npu_parallel,
    )


def windows(board: Board) -> int:
    if board.npu is None:
        return WINDOWS
    numbers = tuple(int(part) for part in board.npu.version.split(".") if part.isdecimal())
    return WINDOWS if not numbers or numbers >= SEVERAL_WINDOWS else 1


def hindrance(board: Board, library: ExoRkllmError | None) -> ExoRkllmError | None:
    """The first thing that keeps every model from the NPU; the board comes before the library."""
    return board.obstacle() or library
