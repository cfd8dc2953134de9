"""Models of this board as the cluster sees them: card, shard, instance, files, state of the runner."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from exo_rkllm.cluster.serving import Servable
from exo_rkllm.cluster.wire import clean
from exo_rkllm.cluster.wire.events import NodeFacts, Raw, Tagged
from exo_rkllm.config.table import Placement
from exo_rkllm.sampling import EXO, SAMPLING_NAMES, Sampling

PREFIX = "rkllm/"
# Less than any MLX model takes, so that a launch from the dashboard fits here and nothing else does (reference 4).
TOKEN_SIZE = 64 << 20
CARD_SAMPLING = {
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
}


def placeable(placement: Placement) -> int:
    """Bytes of memory that the cluster is told to be free here: less than any MLX model takes (reference 4)."""
    return TOKEN_SIZE if placement == "dashboard" else 0


def model_id(catalogue_id: str) -> str:
    """Our names stay apart from those of Hugging Face that exo's own models have."""
    name = clean.text(catalogue_id)
    return name if name.startswith(PREFIX) else PREFIX + name.replace("/", "-")


def backends(placement: Placement, others: Iterable[NodeFacts]) -> tuple[str, ...]:
    """None where we place ourselves; otherwise the one that leaves the placement on other nodes alone (reference 4)."""
    if placement == "own":
        return ()
    return ("MlxCpu",) if any("MlxCuda" in (facts.backends or ()) for facts in others) else ("MlxCuda",)


def card(model: Servable, placement: Placement = "own", backends: tuple[str, ...] = ()) -> Raw:
    """Without backends no scheduler of exo places it anywhere, and so it is never sent to an MLX node."""
    capabilities = ["text"]
    if model.thinking:
        capabilities += ["thinking", "thinking_toggle"]
    if model.images:
        capabilities.append("vision")
    if model.tools:
        capabilities.append("tools")
    return {
        "model_id": model_id(model.id),
        "storage_size": {"in_bytes": TOKEN_SIZE if placement == "dashboard" else clean.whole(model.size)},
        "n_layers": clean.whole(model.layers, 1),
        "hidden_size": clean.whole(model.hidden_size, 1),
        "supports_tensor": False,
        "num_key_value_heads": clean.whole(model.kv_heads) or None,
        "tasks": ["TextGeneration"],
        "family": clean.text(model.family),
        "quantization": clean.text(model.quantization),
        "base_model": clean.text(model.base_model or model.id),
        "capabilities": capabilities,
        "backends": list(backends),
        "context_length": clean.whole(model.context),
        "is_custom": True,
        "sampling_defaults": _sampling_defaults(model.sampling),
    }


def _sampling_defaults(sampling: Sampling) -> Raw:
    """What exo's cards have a name for."""
    values, _ = sampling.for_engine(SAMPLING_NAMES, EXO)
    return {
        name: clean.whole(values[name], -1) if isinstance(values[name], int) else clean.number(values[name])
        for name in CARD_SAMPLING & values.keys()
    }


def shard(whole: Raw) -> Tagged:
    """All layers on one device."""
    layers = whole["n_layers"]
    fields = {"model_card": whole, "device_rank": 0, "world_size": 1}
    return {"PipelineShardMetadata": {**fields, "start_layer": 0, "end_layer": layers, "n_layers": layers}}


def instance(whole: Raw, node: str, instance_id: str, runner_id: str) -> Tagged:
    """exo has no kind of instance for one foreign node; a ring of one is what its own single nodes get."""
    assignments = {
        "model_id": whole["model_id"],
        "runner_to_shard": {runner_id: shard(whole)},
        "node_to_runner": {node: runner_id},
    }
    host = {"ip": "0.0.0.0", "port": 0}  # noqa: S104  what exo writes for a ring of one; nothing listens
    fields = {"instance_id": instance_id, "shard_assignments": assignments}
    return {"MlxRingInstance": {**fields, "hosts_by_node": {node: [host]}, "ephemeral_port": 0}}


def _files(me: str, model: Servable, whole: Raw) -> dict[str, Any]:
    return {"node_id": me, "shard_metadata": shard(whole), "model_directory": clean.text(model.folder)}


def download_completed(me: str, model: Servable, whole: Raw) -> Tagged:
    total = whole["storage_size"]
    return {"DownloadCompleted": {**_files(me, model, whole), "total": total, "read_only": True}}


def download_pending(me: str, model: Servable, whole: Raw) -> Tagged:
    """The model's files are not here, or not any more."""
    return {"DownloadPending": _files(me, model, whole)}


def download_failed(me: str, shard_metadata: Raw, problem: str) -> Tagged:
    """The answer to a download of a model that is none of ours, with the shard as it came."""
    return {"DownloadFailed": {"node_id": me, "shard_metadata": shard_metadata, "error_message": problem}}


def runner_failed(problem: str) -> Tagged:
    return {"RunnerFailed": {"error_message": clean.text(problem), "diagnostics": []}}


def runner_status(model: Servable, *, busy: bool) -> Tagged:
    """What the runner of an instance of this model is doing; `busy` while it answers."""
    match model.state:
        case "loading":
            total = max(1, model.layers)
            layers = int(min(1.0, max(0.0, clean.number(model.progress) or 0.0)) * total)
            return {"RunnerLoading": {"layers_loaded": layers, "total_layers": total}}
        case "warming":
            return {"RunnerWarmingUp": {}}
        case "failed":
            return runner_failed(model.problem)
    # Ready means that it will answer: a cold model is loaded by its first task, and exo's dashboard holds a message
    # back from a runner that is anything else. An answer that runs knows better than a list that is a moment old.
    return {"RunnerRunning" if busy else "RunnerReady": {}}
