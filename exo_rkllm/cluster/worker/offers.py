"""Models of this board as the cluster sees them: card, shard, instance."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from exo_rkllm.cluster.serving import Servable
from exo_rkllm.cluster.wire import clean
from exo_rkllm.cluster.wire.messages import (
    Host,
    Memory,
    MlxRingInstance,
    ModelCard,
    PipelineShardMetadata,
    SamplingDefaults,
    ShardAssignments,
)
from exo_rkllm.config.table import Placement
from exo_rkllm.sampling import EXO, SAMPLING_NAMES, Sampling

PREFIX = "rkllm/"
# Less than any MLX model takes, so that a launch from the dashboard fits here and nothing else does (reference 4).
TOKEN_SIZE = 64 << 20


def model_id(catalogue_id: str) -> str:
    """Our names stay apart from those of Hugging Face that exo's own models have."""
    name = clean.text(catalogue_id)
    return name if name.startswith(PREFIX) else PREFIX + name.replace("/", "-")


def card(model: Servable, placement: Placement = "own", backends: tuple[str, ...] = ()) -> ModelCard:
    """Without backends no scheduler of exo places it anywhere, and so it is never sent to an MLX node."""
    capabilities = ["text"]
    if model.thinking:
        capabilities += ["thinking", "thinking_toggle"]
    if model.images:
        capabilities.append("vision")
    return ModelCard(
        model_id=model_id(model.id),
        storage_size=Memory(TOKEN_SIZE if placement == "dashboard" else clean.whole(model.size)),
        n_layers=clean.whole(model.layers, 1),
        hidden_size=clean.whole(model.hidden_size, 1),
        num_key_value_heads=clean.whole(model.kv_heads) or None,
        family=clean.text(model.family),
        quantization=clean.text(model.quantization),
        base_model=clean.text(model.base_model or model.id),
        capabilities=tuple(capabilities),
        backends=backends,
        context_length=clean.whole(model.context),
        sampling_defaults=_sampling_defaults(model.sampling),
    )


def _sampling_defaults(sampling: Sampling) -> SamplingDefaults:
    """What exo has a name for."""
    named = sampling.for_engine(SAMPLING_NAMES, EXO)[0]
    known = {field.name for field in fields(SamplingDefaults)}
    cleaned: dict[str, Any] = {
        name: clean.whole(value, -1) if isinstance(value, int) else clean.number(value) for name, value in named.items()
    }
    return SamplingDefaults(**{name: value for name, value in cleaned.items() if name in known})


def shard(whole: ModelCard) -> PipelineShardMetadata:
    """All layers on one device."""
    return PipelineShardMetadata(
        model_card=whole,
        device_rank=0,
        world_size=1,
        immediate_exception=False,
        should_timeout=None,
        start_layer=0,
        end_layer=whole.n_layers,
        n_layers=whole.n_layers,
    )


def instance(whole: ModelCard, node: str, instance_id: str, runner_id: str) -> MlxRingInstance:
    return MlxRingInstance(
        instance_id=instance_id,
        shard_assignments=ShardAssignments(whole.model_id, {runner_id: shard(whole)}, {node: runner_id}),
        hosts_by_node={node: (Host("0.0.0.0", 0),)},  # noqa: S104  what exo writes for a ring of one; nothing listens
        ephemeral_port=0,
    )
