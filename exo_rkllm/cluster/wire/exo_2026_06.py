"""exo main from 2026-06-03 (zenoh) to b5375f8 (2026-06-22); no type differs between the two."""

NAME = "2026-06"
COMMITS = ("09f9ea3", "b5375f8")
VERSIONS = ("0.3.70",)

TABLE = """
topic local_events: ForwardedEvent
topic global_events: ForwardedEvent
topic commands: ForwardedCommand
topic download_commands: ForwardedDownloadCommand
topic election_messages: ElectionMessage

# ── envelopes ────────────────────────────────────────────────────────────────────────────────────

record SessionId: master_node_id str, election_clock int
record ForwardedEvent: origin_idx uint, origin str, session SessionId, event Event
record ForwardedCommand: origin str, command Command
record ForwardedDownloadCommand: origin str, command DownloadCommand
record ElectionMessage: clock int, seniority int, proposed_session SessionId, commands_seen int

# ── commands ─────────────────────────────────────────────────────────────────────────────────────

union Command: TestCommand RequestEventLog CommandTextGeneration CommandImageGeneration CommandImageEdits PlaceInstance
union Command: CreateInstance DeleteInstance TaskCancelled TaskFinished SendInputChunk AddCustomModelCard
union Command: DeleteCustomModelCard SetInstanceLink DeleteInstanceLink
union DownloadCommand: StartDownload DeleteDownload CancelDownload

record BaseCommand: command_id str = default
tagged TestCommand(BaseCommand)
tagged RequestEventLog(BaseCommand): since_idx int
tagged CommandTextGeneration(BaseCommand) as TextGeneration: task_params TextGenerationTaskParams
tagged CommandImageGeneration(BaseCommand) as ImageGeneration: task_params json
tagged CommandImageEdits(BaseCommand) as ImageEdits: task_params json
tagged PlaceInstance(BaseCommand): model_card ModelCard, sharding Sharding, instance_meta InstanceMeta, min_nodes int
tagged CreateInstance(BaseCommand): instance Instance
tagged DeleteInstance(BaseCommand): instance_id str
tagged TaskCancelled(BaseCommand): cancelled_command_id str
tagged TaskFinished(BaseCommand): finished_command_id str
tagged SendInputChunk(BaseCommand): chunk InputImageChunkChoice
tagged AddCustomModelCard(BaseCommand): model_card ModelCard
tagged DeleteCustomModelCard(BaseCommand): model_id str
tagged SetInstanceLink(BaseCommand): link_id str, prefill_instances str[], decode_instances str[]
tagged DeleteInstanceLink(BaseCommand): link_id str
tagged StartDownload(BaseCommand): target_node_id str, shard_metadata ShardMetadata
tagged DeleteDownload(BaseCommand): target_node_id str, model_id str
tagged CancelDownload(BaseCommand): target_node_id str, model_id str

# ── events ───────────────────────────────────────────────────────────────────────────────────────

union Event: TestEvent TaskCreated TaskStatusUpdated TaskFailed TaskDeleted TaskAcknowledged InstanceCreated
union Event: InstanceDeleted RunnerStatusUpdated NodeTimedOut NodeGatheredInfo NodeDownloadProgress ChunkGenerated
union Event: InputChunkReceived TopologyEdgeCreated TopologyEdgeDeleted TracesCollected TracesMerged
union Event: CustomModelCardAdded CustomModelCardDeleted InstanceLinkCreated InstanceLinkDeleted

record BaseEvent: event_id str = default
tagged TestEvent(BaseEvent)
tagged TaskCreated(BaseEvent): task_id str, task Task
tagged TaskAcknowledged(BaseEvent): task_id str
tagged TaskDeleted(BaseEvent): task_id str
tagged TaskStatusUpdated(BaseEvent): task_id str, task_status TaskStatus
tagged TaskFailed(BaseEvent): task_id str, error_type str, error_message str
tagged InstanceCreated(BaseEvent): instance Instance
tagged InstanceDeleted(BaseEvent): instance_id str
tagged RunnerStatusUpdated(BaseEvent): runner_id str, runner_status RunnerStatus
tagged NodeTimedOut(BaseEvent): node_id str
tagged NodeGatheredInfo(BaseEvent): node_id str, when time, info GatheredInfo
tagged NodeDownloadProgress(BaseEvent): download_progress DownloadProgress
tagged ChunkGenerated(BaseEvent): command_id str, chunk Chunk
tagged InputChunkReceived(BaseEvent): command_id str, chunk InputImageChunkChoice
tagged TopologyEdgeCreated(BaseEvent): conn Connection
tagged TopologyEdgeDeleted(BaseEvent): conn Connection
tagged CustomModelCardAdded(BaseEvent): model_card ModelCard
tagged CustomModelCardDeleted(BaseEvent): model_id str
tagged TracesCollected(BaseEvent): task_id str, rank int, traces TraceEventData[]
tagged TracesMerged(BaseEvent): task_id str, traces TraceEventData[]
tagged InstanceLinkCreated(BaseEvent): link InstanceLink
tagged InstanceLinkDeleted(BaseEvent): link_id str
record TraceEventData: name str, start_us int, duration_us int, rank int, category str
record InstanceLink: link_id str, prefill_instances str[], decode_instances str[]

# ── nodes ────────────────────────────────────────────────────────────────────────────────────────

enum Backend: MlxMetal MlxCpu MlxCuda Vllm
enum InterfaceType: wifi ethernet maybe_ethernet thunderbolt unknown
union GatheredInfo: MacmonMetrics MemoryUsage NodeNetworkInterfaces MacThunderboltIdentifiers MacThunderboltConnections
union GatheredInfo: RdmaCtlStatus ThunderboltBridgeInfo NodeConfig MiscData StaticNodeInformation NodeDiskUsage
union GatheredInfo: NodeBackends

record Memory: in_bytes int = 0
record MemoryUsage: ram_total Memory, ram_available Memory, swap_total Memory, swap_available Memory
record SystemPerformanceProfile
  gpu_usage float = 0.0, temp float = 0.0, sys_power float = 0.0, pcpu_usage float = 0.0, ecpu_usage float = 0.0
tagged MacmonMetrics: system_profile SystemPerformanceProfile, memory MemoryUsage
record NetworkInterfaceInfo: name str, ip_address str, interface_type InterfaceType = "unknown"
tagged NodeNetworkInterfaces: ifaces NetworkInterfaceInfo[]
record ThunderboltIdentifier: rdma_interface str, domain_uuid str, link_speed str = default
record ThunderboltConnection: source_uuid str, sink_uuid str
tagged MacThunderboltIdentifiers: idents ThunderboltIdentifier[]
tagged MacThunderboltConnections: conns ThunderboltConnection[]
tagged RdmaCtlStatus: enabled bool
record ThunderboltBridgeStatus: enabled bool, exists bool, service_name str? = null
tagged ThunderboltBridgeInfo: status ThunderboltBridgeStatus
tagged NodeConfig
tagged MiscData: friendly_name str
tagged StaticNodeInformation: model str, chip str, os_version str, os_build_version str
record DiskUsage: total Memory, available Memory
tagged NodeDiskUsage: disk_usage DiskUsage
tagged NodeBackends: backends Backend[]
record Multiaddr: address multiaddr, address_type str = default, ip_address str = default, port int = default
record SocketConnection: sink_multiaddr Multiaddr
record RDMAConnection: source_rdma_iface str, sink_rdma_iface str
union Edge: SocketConnection RDMAConnection
record Connection: source str, sink str, edge Edge

# ── models, instances, runners ───────────────────────────────────────────────────────────────────

enum ModelTask: TextGeneration TextToImage ImageToImage
enum ReasoningDialect: none post_last_user suffix channel tool_conditional
enum Sharding: Tensor Pipeline
enum InstanceMeta: MlxRing MlxJaccl

record ComponentInfo
  component_name str, component_path str, storage_size Memory, n_layers positive? = null, can_shard bool
  safetensors_index_filename str? = null
record VisionCardConfig
  image_token_id int, model_type str, weights_repo str = default, image_token str? = null, processor_repo str? = null
record SamplingValues
  temperature float? = null, top_p float? = null, top_k int? = null, min_p float? = null
  repetition_penalty float? = null, presence_penalty float? = null, frequency_penalty float? = null
record SamplingDefaults(SamplingValues): thinking SamplingValues? = null, non_thinking SamplingValues? = null
record ModelCard
  model_id str, storage_size Memory, n_layers positive, hidden_size positive, supports_tensor bool
  num_key_value_heads positive? = null, tasks ModelTask[], components ComponentInfo[]? = null, family str = ""
  quantization str = "", base_model str = "", capabilities str[] = [], backends Backend[]
  reasoning_dialect ReasoningDialect = "none", context_length int = 0, uses_cfg bool = false
  trust_remote_code bool = false, is_custom bool = false, vision VisionCardConfig? = null
  sampling_defaults SamplingDefaults = {}

union ShardMetadata: PipelineShardMetadata CfgShardMetadata TensorShardMetadata
record BaseShardMetadata
  model_card ModelCard, device_rank int, world_size int, immediate_exception bool = false
  should_timeout float? = null, start_layer uint, end_layer uint, n_layers uint
tagged PipelineShardMetadata(BaseShardMetadata)
tagged TensorShardMetadata(BaseShardMetadata)
tagged CfgShardMetadata(BaseShardMetadata)
  cfg_rank int, cfg_world_size int = default, pipeline_rank int, pipeline_world_size int
record ShardAssignments
  model_id str, runner_to_shard ShardMetadata{}, node_to_runner str{}
  rule every node's runner has a shard
record Host: ip str, port port
union Instance: MlxRingInstance MlxJacclInstance
tagged MlxRingInstance: instance_id str, shard_assignments ShardAssignments, hosts_by_node Host[]{}, ephemeral_port int
tagged MlxJacclInstance
  instance_id str, shard_assignments ShardAssignments, jaccl_devices str?[][], jaccl_coordinators str{}
record BoundInstance: instance Instance, bound_runner_id str, bound_node_id str

union RunnerStatus: RunnerIdle RunnerConnecting RunnerConnected RunnerLoading RunnerLoaded RunnerWarmingUp RunnerReady
union RunnerStatus: RunnerRunning RunnerShuttingDown RunnerShutdown RunnerFailed
tagged RunnerIdle
tagged RunnerConnecting
tagged RunnerConnected
tagged RunnerLoading: layers_loaded int = 0, total_layers int = 0
tagged RunnerLoaded
tagged RunnerWarmingUp
tagged RunnerReady: prefill_server_port int? = null
tagged RunnerRunning
tagged RunnerShuttingDown
tagged RunnerShutdown
tagged RunnerFailed: error_message str? = null, diagnostics RunnerDiagnostic[]
union RunnerDiagnostic: RunnerMetalGpuTimeout RunnerRingTransportError RunnerRingSocketReceivingError
record BaseRunnerDiagnostic: message str, evidence str[] = default
tagged RunnerMetalGpuTimeout(BaseRunnerDiagnostic)
tagged RunnerRingTransportError(BaseRunnerDiagnostic)
tagged RunnerRingSocketReceivingError(BaseRunnerDiagnostic): error_number int, error_name str, error_description str

union DownloadProgress: DownloadPending DownloadCompleted DownloadFailed DownloadOngoing
record BaseDownloadProgress: node_id str, shard_metadata ShardMetadata, model_directory str = ""
tagged DownloadPending(BaseDownloadProgress): downloaded Memory = {}, total Memory = {}
tagged DownloadCompleted(BaseDownloadProgress): total Memory, read_only bool = false
tagged DownloadFailed(BaseDownloadProgress): error_message str
tagged DownloadOngoing(BaseDownloadProgress): download_progress DownloadProgressData
record DownloadProgressData
  total Memory, downloaded Memory, downloaded_this_session Memory, completed_files int, total_files int, speed float
  eta_ms int, files DownloadProgressData{}

# ── tasks ────────────────────────────────────────────────────────────────────────────────────────

enum TaskStatus: Pending Running Complete TimedOut Failed Cancelled
enum MessageRole: user assistant system developer tool
enum ReasoningEffort: none minimal low medium high xhigh
union Task: CreateRunner DownloadModel ConnectToGroup LoadModel StartWarmup TaskTextGeneration CancelTask
union Task: TaskImageGeneration TaskImageEdits Shutdown
record BaseTask: task_id str = default, task_status TaskStatus = default, instance_id str
tagged CreateRunner(BaseTask): bound_instance BoundInstance
tagged DownloadModel(BaseTask): shard_metadata ShardMetadata
tagged LoadModel(BaseTask)
tagged ConnectToGroup(BaseTask)
tagged StartWarmup(BaseTask)
tagged TaskTextGeneration(BaseTask) as TextGeneration
  command_id str, task_params TextGenerationTaskParams, error_type str? = null, error_message str? = null
tagged CancelTask(BaseTask): cancelled_task_id str, runner_id str
tagged TaskImageGeneration(BaseTask) as ImageGeneration
  command_id str, task_params json, error_type str? = null, error_message str? = null
tagged TaskImageEdits(BaseTask) as ImageEdits
  command_id str, task_params json, error_type str? = null, error_message str? = null
tagged Shutdown(BaseTask): runner_id str
record InputMessage: role MessageRole, content str
record TextGenerationTaskParams
  model str, input InputMessage[], instructions str? = null, max_output_tokens int? = null, temperature float? = null
  top_p float? = null, stream bool = default, tools json? = null, bench bool = default
  use_prefix_cache bool = default, top_k int? = null, stop json? = null, seed int? = null
  chat_template_messages json? = null, reasoning_effort ReasoningEffort? = null, enable_thinking bool? = null
  logprobs bool = default, top_logprobs int? = null, min_p float? = null, repetition_penalty float? = null
  repetition_context_size int? = null, presence_penalty float? = null, frequency_penalty float? = null
  images str[] = default, image_hashes str{} = default, prefill_endpoint str? = null

# ── chunks ───────────────────────────────────────────────────────────────────────────────────────

enum TextEnd: stop length content_filter
enum ErrorEnd: error
enum ToolEnd: tool_calls
enum AnyEnd: stop length tool_calls content_filter function_call error
enum PrefixCacheHit: none partial exact
enum ImageFormat: png jpeg webp
union Chunk: PrefillProgressChunk TokenChunk ImageChunk ToolCallChunk ErrorChunk
union InputImageChunkChoice: InputImageChunk
record PromptTokensDetails: cached_tokens int = 0, audio_tokens int = 0
record CompletionTokensDetails
  reasoning_tokens int = 0, audio_tokens int = 0, accepted_prediction_tokens int = 0
  rejected_prediction_tokens int = 0
record Usage
  prompt_tokens int, completion_tokens int, total_tokens int, prompt_tokens_details PromptTokensDetails
  completion_tokens_details CompletionTokensDetails
record GenerationStats
  prompt_tps float, generation_tps float, prompt_tokens int, generation_tokens int, peak_memory_usage Memory
  prefix_cache_hit PrefixCacheHit = "none"
record ImageGenerationStats
  seconds_per_step float, total_generation_time float, num_inference_steps int, num_images int, image_width int
  image_height int, peak_memory_usage Memory
record TopLogprobItem: token str, logprob float, bytes int[]? = null
record ToolCallItem: id str = default, name str, arguments str
tagged TokenChunk
  model str, text str, token_id int, usage Usage?, finish_reason TextEnd? = null, stats GenerationStats? = null
  logprob float? = null, top_logprobs TopLogprobItem[]? = null, is_thinking bool = false
tagged ErrorChunk: model str, error_message str, finish_reason ErrorEnd = "error", diagnostics RunnerDiagnostic[] = []
tagged ToolCallChunk
  model str, tool_calls ToolCallItem[], usage Usage?, finish_reason ToolEnd = "tool_calls"
  stats GenerationStats? = null
tagged PrefillProgressChunk: model str, processed_tokens int, total_tokens int
tagged ImageChunk
  model str, data str, chunk_index int, total_chunks int, image_index int, is_partial bool = false
  partial_index int? = null, total_partials int? = null, stats ImageGenerationStats? = null
  format ImageFormat? = null, finish_reason AnyEnd? = null, error_message str? = null
tagged InputImageChunk
  model str, command_id str, data str, chunk_index int, total_chunks int, image_index int = default

# ── what an exo node tells over HTTP ─────────────────────────────────────────────────────────────

# `GET /state`, in camelCase. Other keys mean that a session holds other things than we think.
record NodeIdentityState: model_id str, chip_id str, friendly_name str, os_version str, os_build_version str
record NodeNetworkState: interfaces NetworkInterfaceInfo[]
record State
  instances Instance{}, runners RunnerStatus{}, downloads DownloadProgress[]{}, tasks Task{}, last_seen time{}
  topology json, last_event_applied_idx int, node_identities NodeIdentityState{}, node_memory json, node_disk json
  node_system json, node_network NodeNetworkState{}, node_thunderbolt json, node_thunderbolt_bridge json
  node_rdma_ctl json, node_backends Backend[]{}, thunderbolt_bridge_cycles json, instance_links json
  prefill_server_ports json, custom_model_cards ModelCard{}

# Types that both `/openapi.json` and our messages have.
list published: Backend InstanceMeta Sharding ModelTask ModelCard SamplingDefaults SamplingValues ComponentInfo
list published: VisionCardConfig Memory ShardAssignments PipelineShardMetadata MlxRingInstance MlxJacclInstance Host
"""
