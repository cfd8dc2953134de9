"""What a node has to do with a model of which exo gave it some layers. Pure; the model itself is never cut."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

from exo_rkllm.errors import NotSupported

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
    """Refused where the ring is not to be served: exo hands the sentence to the client (classic-plugin 2.6)."""
    if whole(shard):
        return "answer"
    if ring == "first":
        return "answer" if shard.start_layer == 0 else "relay"
    raise NotSupported(
        f"This node was given layers {shard.start_layer} to {shard.end_layer} of {shard.n_layers} of {shard.model_id}, "
        "and a .rkllm model cannot be cut.",
        "Let it be alone in its ring (--discovery-module manual), or set EXO_RKLLM_CLASSIC_RING=first on every node.",
    )
