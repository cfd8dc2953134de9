"""Every message that this node sends, as values whose fields are the wire's fields, all of them, in its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from exo_rkllm.backends.base import JSON


class Record:
    """Travels as an object of its fields."""

    __slots__ = ()


class Tagged(Record):
    """Travels as {"Name": {fields}}."""

    __slots__ = ()


def wire(value: object) -> Any:
    """The JSON form of a value made of records, mappings, tuples and plain values."""
    if isinstance(value, Record):
        # exo refuses unknown fields and fills in nothing that we rely on, so a record sends each of its fields
        names: tuple[str, ...] = type(value).__slots__
        body = {name: wire(getattr(value, name)) for name in names}
        return {type(value).__name__: body} if isinstance(value, Tagged) else body
    if isinstance(value, tuple | list):
        return [wire(entry) for entry in value]
    if isinstance(value, Mapping):
        return {key: wire(entry) for key, entry in value.items()}
    return value


# ── values ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Session(Record):
    """One master's one reign; whoever follows another one has another log."""

    master_node_id: str
    election_clock: int


@dataclass(frozen=True, slots=True)
class Memory(Record):
    in_bytes: int


@dataclass(frozen=True, slots=True)
class SamplingDefaults(Record):
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    thinking: None = None
    non_thinking: None = None


@dataclass(frozen=True, slots=True)
class ModelCard(Record):
    model_id: str
    storage_size: Memory
    n_layers: int
    hidden_size: int
    supports_tensor: bool = False
    num_key_value_heads: int | None = None
    tasks: tuple[str, ...] = ("TextGeneration",)
    components: None = None
    family: str = ""
    quantization: str = ""
    base_model: str = ""
    capabilities: tuple[str, ...] = ("text",)
    backends: tuple[str, ...] = ()
    reasoning_dialect: str = "none"
    context_length: int = 0
    uses_cfg: bool = False
    trust_remote_code: bool = False
    is_custom: bool = True
    vision: None = None
    sampling_defaults: SamplingDefaults = SamplingDefaults()


@dataclass(frozen=True, slots=True)
class PipelineShardMetadata(Tagged):
    model_card: ModelCard
    device_rank: int
    world_size: int
    immediate_exception: bool
    should_timeout: float | None
    start_layer: int
    end_layer: int
    n_layers: int


@dataclass(frozen=True, slots=True)
class ShardAssignments(Record):
    model_id: str
    runner_to_shard: Mapping[str, PipelineShardMetadata]
    node_to_runner: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Host(Record):
    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class MlxRingInstance(Tagged):
    """exo has no kind of instance for one foreign node; a ring of one is what its own single nodes get."""

    instance_id: str
    shard_assignments: ShardAssignments
    hosts_by_node: Mapping[str, tuple[Host, ...]]
    ephemeral_port: int


# ── what a node tells of itself ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class MiscData(Tagged):
    friendly_name: str


@dataclass(frozen=True, slots=True)
class StaticNodeInformation(Tagged):
    model: str
    chip: str
    os_version: str
    os_build_version: str


@dataclass(frozen=True, slots=True)
class NodeBackends(Tagged):
    backends: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DiskUsage(Record):
    total: Memory
    available: Memory


@dataclass(frozen=True, slots=True)
class NodeDiskUsage(Tagged):
    disk_usage: DiskUsage


@dataclass(frozen=True, slots=True)
class NetworkInterfaceInfo(Record):
    name: str
    ip_address: str
    interface_type: str


@dataclass(frozen=True, slots=True)
class NodeNetworkInterfaces(Tagged):
    ifaces: tuple[NetworkInterfaceInfo, ...]


@dataclass(frozen=True, slots=True)
class MemoryUsage(Record):
    """The one kind of node information that has no tag (reference 2.2)."""

    ram_total: Memory
    ram_available: Memory
    swap_total: Memory
    swap_available: Memory


GatheredInfo: TypeAlias = (
    MiscData | StaticNodeInformation | NodeBackends | NodeDiskUsage | NodeNetworkInterfaces | MemoryUsage
)


# ── runners ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RunnerIdle(Tagged):
    pass


@dataclass(frozen=True, slots=True)
class RunnerLoading(Tagged):
    layers_loaded: int
    total_layers: int


@dataclass(frozen=True, slots=True)
class RunnerLoaded(Tagged):
    pass


@dataclass(frozen=True, slots=True)
class RunnerWarmingUp(Tagged):
    pass


@dataclass(frozen=True, slots=True)
class RunnerReady(Tagged):
    prefill_server_port: int | None = None


@dataclass(frozen=True, slots=True)
class RunnerRunning(Tagged):
    pass


@dataclass(frozen=True, slots=True)
class RunnerShuttingDown(Tagged):
    pass


@dataclass(frozen=True, slots=True)
class RunnerShutdown(Tagged):
    pass


@dataclass(frozen=True, slots=True)
class RunnerFailed(Tagged):
    error_message: str
    diagnostics: tuple[()] = ()


RunnerStatus: TypeAlias = (
    RunnerIdle
    | RunnerLoading
    | RunnerLoaded
    | RunnerWarmingUp
    | RunnerReady
    | RunnerRunning
    | RunnerShuttingDown
    | RunnerShutdown
    | RunnerFailed
)


# ── chunks ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class PromptTokensDetails(Record):
    cached_tokens: int
    audio_tokens: int = 0


@dataclass(frozen=True, slots=True)
class CompletionTokensDetails(Record):
    reasoning_tokens: int
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Usage(Record):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


@dataclass(frozen=True, slots=True)
class GenerationStats(Record):
    prompt_tps: float
    generation_tps: float
    prompt_tokens: int
    generation_tokens: int
    peak_memory_usage: Memory
    prefix_cache_hit: Literal["none", "partial", "exact"]


@dataclass(frozen=True, slots=True)
class ToolCallItem(Record):
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class TokenChunk(Tagged):
    """`text` may hold several tokens; the first chunk with a `finish_reason` ends the request."""

    model: str
    text: str
    token_id: int
    usage: Usage | None = None
    finish_reason: Literal["stop", "length"] | None = None
    stats: GenerationStats | None = None
    logprob: None = None
    top_logprobs: None = None
    is_thinking: bool = False


@dataclass(frozen=True, slots=True)
class ToolCallChunk(Tagged):
    model: str
    tool_calls: tuple[ToolCallItem, ...]
    usage: Usage | None
    finish_reason: Literal["tool_calls"] = "tool_calls"
    stats: GenerationStats | None = None


@dataclass(frozen=True, slots=True)
class ErrorChunk(Tagged):
    model: str
    error_message: str
    finish_reason: Literal["error"] = "error"
    diagnostics: tuple[()] = ()


@dataclass(frozen=True, slots=True)
class ImageChunk(Tagged):
    """Only ever an error: the API of an exo node ends itself over any other chunk for an image request."""

    model: str
    error_message: str
    data: str = ""
    chunk_index: int = 0
    total_chunks: int = 1
    image_index: int = 0
    is_partial: bool = False
    partial_index: None = None
    total_partials: None = None
    stats: None = None
    format: None = None
    finish_reason: Literal["error"] = "error"


@dataclass(frozen=True, slots=True)
class PrefillProgressChunk(Tagged):
    model: str
    processed_tokens: int
    total_tokens: int


Chunk: TypeAlias = TokenChunk | ToolCallChunk | ErrorChunk | ImageChunk | PrefillProgressChunk


# ── downloads ────────────────────────────────────────────────────────────────────────────────────

Shard: TypeAlias = PipelineShardMetadata | Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class DownloadCompleted(Tagged):
    node_id: str
    shard_metadata: Shard
    model_directory: str
    total: Memory
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class DownloadPending(Tagged):
    node_id: str
    shard_metadata: Shard
    model_directory: str
    downloaded: Memory
    total: Memory


@dataclass(frozen=True, slots=True)
class DownloadFailed(Tagged):
    """`shard_metadata` goes back as it was asked for: the model is none of ours."""

    node_id: str
    shard_metadata: Shard
    model_directory: str
    error_message: str


DownloadProgress: TypeAlias = DownloadCompleted | DownloadPending | DownloadFailed


# ── events ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class NodeGatheredInfo(Tagged):
    event_id: str
    node_id: str
    when: str
    info: GatheredInfo


@dataclass(frozen=True, slots=True)
class NodeDownloadProgress(Tagged):
    event_id: str
    download_progress: DownloadProgress


@dataclass(frozen=True, slots=True)
class RunnerStatusUpdated(Tagged):
    event_id: str
    runner_id: str
    runner_status: RunnerStatus


@dataclass(frozen=True, slots=True)
class TaskStatusUpdated(Tagged):
    event_id: str
    task_id: str
    task_status: Literal["Running", "Complete", "Failed"]


@dataclass(frozen=True, slots=True)
class ChunkGenerated(Tagged):
    event_id: str
    command_id: str
    chunk: Chunk


Event: TypeAlias = NodeGatheredInfo | NodeDownloadProgress | RunnerStatusUpdated | TaskStatusUpdated | ChunkGenerated


# ── commands ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RequestEventLog(Tagged):
    command_id: str
    since_idx: int


@dataclass(frozen=True, slots=True)
class AddCustomModelCard(Tagged):
    command_id: str
    model_card: ModelCard


@dataclass(frozen=True, slots=True)
class CreateInstance(Tagged):
    command_id: str
    instance: MlxRingInstance


@dataclass(frozen=True, slots=True)
class DeleteInstance(Tagged):
    command_id: str
    instance_id: str


Command: TypeAlias = RequestEventLog | AddCustomModelCard | CreateInstance | DeleteInstance


# ── envelopes ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ForwardedEvent(Record):
    topic: ClassVar[str] = "local_events"
    origin_idx: int
    origin: str
    session: Session
    event: Event


@dataclass(frozen=True, slots=True)
class ForwardedCommand(Record):
    topic: ClassVar[str] = "commands"

    origin: str
    command: Command


@dataclass(frozen=True, slots=True)
class ElectionMessage(Record):
    topic: ClassVar[str] = "election_messages"

    clock: int
    seniority: int
    proposed_session: Session
    commands_seen: int


Envelope: TypeAlias = ForwardedEvent | ForwardedCommand | ElectionMessage
