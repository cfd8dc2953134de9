"""Models of this board as the cluster sees them: card, shard, instance."""

from __future__ import annotations

from exo_rkllm.cluster.messages import (
    Host,
    Memory,
    MlxRingInstance,
    ModelCard,
    PipelineShardMetadata,
    SamplingDefaults,
    ShardAssignments,
)
from exo_rkllm.cluster.serving import Servable
from exo_rkllm.cluster.settings import Placement

PREFIX = "rkllm/"
# Less than any MLX model takes, so that a launch from the dashboard fits here and nothing else does (reference 4).
TOKEN_SIZE = 64 << 20


def model_id(catalogue_id: str) -> str:
    """Our names stay apart from those of Hugging Face that exo's own models have."""
    return catalogue_id if catalogue_id.startswith(PREFIX) else PREFIX + catalogue_id.replace("/", "-")


def card(model: Servable, placement: Placement = "own", backends: tuple[str, ...] = ()) -> ModelCard:
    """Without backends no scheduler of exo places it anywhere, and so it is never sent to an MLX node."""
    capabilities = ["text"]
    if model.thinking:
        capabilities += ["thinking", "thinking_toggle"]
    if model.images:
        capabilities.append("vision")
    return ModelCard(
        model_id=model_id(model.id),
        storage_size=Memory(TOKEN_SIZE if placement == "dashboard" else max(0, model.size)),
        n_layers=max(1, model.layers),
        hidden_size=max(1, model.hidden_size),
        num_key_value_heads=model.kv_heads if model.kv_heads > 0 else None,
        family=model.family,
        quantization=model.quantization,
        base_model=model.base_model or model.id,
        capabilities=tuple(capabilities),
        backends=backends,
        context_length=max(0, model.context),
        sampling_defaults=SamplingDefaults(
            temperature=model.sampling.temperature,
            top_p=model.sampling.top_p,
            top_k=model.sampling.top_k,
            repetition_penalty=model.sampling.repeat_penalty,
            presence_penalty=model.sampling.presence_penalty,
            frequency_penalty=model.sampling.frequency_penalty,
        ),
    )


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
