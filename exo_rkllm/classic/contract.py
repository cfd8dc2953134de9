"""What classic exo expects of an engine: the class to derive from, and which part of a model a node answers for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from exo_rkllm.errors import NotSupported

if TYPE_CHECKING:
    import numpy as np

    Ids = np.ndarray[Any, Any]


class HostContract(ABC):
    """Stands in where there is no exo: the methods that a host calls unconditionally (classic-plugin 2.2)."""

    @abstractmethod
    async def encode(self, shard: Any, prompt: str) -> Ids: ...

    @abstractmethod
    async def sample(self, x: Ids, temp: float = 0.0, top_p: float = 1.0) -> Ids: ...

    @abstractmethod
    async def decode(self, shard: Any, tokens: Any) -> str: ...

    @abstractmethod
    async def infer_tensor(
        self, request_id: str, shard: Any, input_data: Ids, inference_state: dict[str, Any] | None = None
    ) -> tuple[Ids, dict[str, Any] | None]: ...

    @abstractmethod
    async def load_checkpoint(self, shard: Any, path: str | None) -> None: ...


def host_class() -> type[Any]:
    """exo's own base class where it is installed. An `exo` that is another project has no such module."""
    try:
        from exo.inference.inference_engine import InferenceEngine  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return HostContract
    own: type[Any] = InferenceEngine
    return own


# ── the ring ─────────────────────────────────────────────────────────────────────────────────────

Part: TypeAlias = Literal["answer", "relay"]


class Shard(Protocol):
    """exo's, as far as it is read here."""

    model_id: str
    start_layer: int
    end_layer: int
    n_layers: int


def whole(shard: Shard) -> bool:
    return shard.start_layer == 0 and shard.end_layer == shard.n_layers - 1


def part(shard: Shard, ring: str) -> Part:
    """What this node does for `shard`; the model itself is never cut.

    Raises NotSupported where the ring is not to be served: exo hands the sentence to the client (classic-plugin 2.6).
    """
    if whole(shard):
        return "answer"
    if ring == "first":
        return "answer" if shard.start_layer == 0 else "relay"
    raise NotSupported(
        f"This node has been given layers {shard.start_layer} to {shard.end_layer} of {shard.n_layers} of "
        f"{shard.model_id}, "
        "and a .rkllm model cannot be cut.",
        "Leave it alone in its ring (--discovery-module manual), or set EXO_RKLLM_CLASSIC_RING=first on every node.",
    )
