"""What loading a model takes, and what stands in its way."""

from __future__ import annotations

from exo_rkllm.backends.base import Model
from exo_rkllm.backends.registry import EngineRegistry
from exo_rkllm.board.detect import Board
from exo_rkllm.catalogue.store import Entry
from exo_rkllm.config import Config
from exo_rkllm.dispatch.state import DispatchLimits, ModelNeeds
from exo_rkllm.errors import ExoRkllmError

# A card without a figure: the file, and what the runtime takes besides (reference 3.2, an estimate).
OVERHEAD = 300 << 20
# The first driver whose NPU addresses have more than one window (reference npu-platform, drivers).
SEVERAL_WINDOWS = (0, 9, 6)
WINDOWS = 16


def needs(model: Model, kinds: EngineRegistry) -> ModelNeeds:
    """From the card where there is one; a file is a stat."""
    size = 0
    if model.path is not None:
        try:
            size = model.path.stat().st_size
        except OSError:
            size = 0  # loading it says what is wrong with it
    memory = model.card.memory if isinstance(model, Entry) and model.card.memory else size and size + OVERHEAD
    kind = kinds.get(kinds.chosen(model))
    if kind is None or not kind.on_npu:
        return ModelNeeds(memory)
    domain = model.options.get("base_domain_id")
    return ModelNeeds(memory, max(size, 1), domain if isinstance(domain, int) else None)


def limits(config: Config, board: Board, pinned: frozenset[str]) -> DispatchLimits:
    return DispatchLimits(
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


def unavailable_reason(board: Board, library: ExoRkllmError | None) -> ExoRkllmError | None:
    """The first thing that keeps every model from the NPU; the board comes before the library."""
    return board.unavailable_reason() or library
