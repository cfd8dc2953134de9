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

record SessionId
  master_node_id str
  election_clock int
record ForwardedEvent
  origin_idx uint
  origin str
  session SessionId
  event Event
record ForwardedCommand
  origin str
  command Command
record ForwardedDownloadCommand
  origin str
  command DownloadCommand
record ElectionMessage
  clock int
  seniority int
  proposed_session SessionId
  commands_seen int

# ── commands ─────────────────────────────────────────────────────────────────────────────────────

union Command: TestCommand RequestEventLog CommandTextGeneration CommandImageGeneration CommandImageEdits PlaceInstance
union Command: CreateInstance DeleteInstance TaskCancelled TaskFinished SendInputChunk AddCustomModelCard
union Command: DeleteCustomModelCard SetInstanceLink DeleteInstanceLink
union DownloadCommand: StartDownload DeleteDownload CancelDownload

tagged TestCommand
  command_id str = default
tagged RequestEventLog
  command_id str = default
  since_idx int
tagged CommandTextGeneration as TextGeneration
  command_id str = default
  task_params TextGenerationTaskParams
tagged CommandImageGeneration as ImageGeneration
  command_id str = default
  task_params json
tagged CommandImageEdits as ImageEdits
  command_id str = default
  task_params json
tagged PlaceInstance
  command_id str = default
  model_card ModelCard
  sharding Sharding
  instance_meta InstanceMeta
  min_nodes int
tagged CreateInstance
  command_id str = default
  instance Instance
tagged DeleteInstance
  command_id str = default
  instance_id str
tagged TaskCancelled
  command_id str = default
  cancelled_command_id str
tagged TaskFinished
  command_id str = default
  finished_command_id str
tagged SendInputChunk
  command_id str = default
  chunk InputImageChunkChoice
tagged AddCustomModelCard
  command_id str = default
  model_card ModelCard
tagged DeleteCustomModelCard
  command_id str = default
  model_id str
tagged SetInstanceLink
  command_id str = default
  link_id str
  prefill_instances str[]
  decode_instances str[]
tagged DeleteInstanceLink
  command_id str = default
  link_id str
tagged StartDownload
  command_id str = default
  target_node_id str
  shard_metadata ShardMetadata
tagged DeleteDownload
  command_id str = default
  target_node_id str
  model_id str
tagged CancelDownload
  command_id str = default
  target_node_id str
  model_id str

# ── events ───────────────────────────────────────────────────────────────────────────────────────

union Event: TestEvent TaskCreated TaskStatusUpdated TaskFailed TaskDeleted TaskAcknowledged InstanceCreated
union Event: InstanceDeleted RunnerStatusUpdated NodeTimedOut NodeGatheredInfo NodeDownloadProgress ChunkGenerated
union Event: InputChunkReceived TopologyEdgeCreated TopologyEdgeDeleted TracesCollected TracesMerged
union Event: CustomModelCardAdded CustomModelCardDeleted InstanceLinkCreated InstanceLinkDeleted

tagged TestEvent
  event_id str = default
tagged TaskCreated
  event_id str = default
  task_id str
  task Task
tagged TaskAcknowledged
  event_id str = default
  task_id str
tagged TaskDeleted
  event_id str = default
  task_id str
tagged TaskStatusUpdated
  event_id str = default
  task_id str
  task_status TaskStatus
tagged TaskFailed
  event_id str = default
  task_id str
  error_type str
  error_message str
tagged InstanceCreated
  event_id str = default
  instance Instance
tagged InstanceDeleted
  event_id str = default
  instance_id str
tagged RunnerStatusUpdated
  event_id str = default
  runner_id str
  runner_status RunnerStatus
tagged NodeTimedOut
  event_id str = default
  node_id str
tagged NodeGatheredInfo
  event_id str = default
  node_id str
  when time
  info GatheredInfo
tagged NodeDownloadProgress
  event_id str = default
  download_progress DownloadProgress
tagged ChunkGenerated
  event_id str = default
  command_id str
  chunk Chunk
tagged InputChunkReceived
  event_id str = default
  command_id str
  chunk InputImageChunkChoice
tagged TopologyEdgeCreated
  event_id str = default
  conn Connection
tagged TopologyEdgeDeleted
  event_id str = default
  conn Connection
tagged CustomModelCardAdded
  event_id str = default
  model_card ModelCard
tagged CustomModelCardDeleted
  event_id str = default
  model_id str
tagged TracesCollected
  event_id str = default
  task_id str
  rank int
  traces TraceEventData[]
tagged TracesMerged
  event_id str = default
  task_id str
  traces TraceEventData[]
tagged InstanceLinkCreated
  event_id str = default
  link InstanceLink
tagged InstanceLinkDeleted
  event_id str = default
  link_id str
record TraceEventData
  name str
  start_us int
  duration_us int
  rank int
  category str
record InstanceLink
  link_id str
  prefill_instances str[]
  decode_instances str[]

# ── nodes ────────────────────────────────────────────────────────────────────────────────────────

enum Backend: MlxMetal MlxCpu MlxCuda Vllm
enum InterfaceType: wifi ethernet maybe_ethernet thunderbolt unknown
union GatheredInfo: MacmonMetrics MemoryUsage NodeNetworkInterfaces MacThunderboltIdentifiers MacThunderboltConnections
union GatheredInfo: RdmaCtlStatus ThunderboltBridgeInfo NodeConfig MiscData StaticNodeInformation NodeDiskUsage
union GatheredInfo: NodeBackends

record Memory
  in_bytes int = default
record MemoryUsage
  ram_total Memory
  ram_available Memory
  swap_total Memory
  swap_available Memory
record SystemPerformanceProfile
  gpu_usage float = default
  temp float = default
  sys_power float = default
  pcpu_usage float = default
  ecpu_usage float = default
tagged MacmonMetrics
  system_profile SystemPerformanceProfile
  memory MemoryUsage
record NetworkInterfaceInfo
  name str
  ip_address str
  interface_type InterfaceType = default
tagged NodeNetworkInterfaces
  ifaces NetworkInterfaceInfo[]
record ThunderboltIdentifier
  rdma_interface str
  domain_uuid str
  link_speed str = default
record ThunderboltConnection
  source_uuid str
  sink_uuid str
tagged MacThunderboltIdentifiers
  idents ThunderboltIdentifier[]
tagged MacThunderboltConnections
  conns ThunderboltConnection[]
tagged RdmaCtlStatus
  enabled bool
record ThunderboltBridgeStatus
  enabled bool
  exists bool
  service_name str? = default
tagged ThunderboltBridgeInfo
  status ThunderboltBridgeStatus
tagged NodeConfig
tagged MiscData
  friendly_name str
tagged StaticNodeInformation
  model str
  chip str
  os_version str
  os_build_version str
record DiskUsage
  total Memory
  available Memory
tagged NodeDiskUsage
  disk_usage DiskUsage
tagged NodeBackends
  backends Backend[]
record Multiaddr
  address multiaddr
  address_type str = computed
  ip_address str = computed
  port int = computed
record SocketConnection
  sink_multiaddr Multiaddr
record RDMAConnection
  source_rdma_iface str
  sink_rdma_iface str
union Edge: SocketConnection RDMAConnection
record Connection
  source str
  sink str
  edge Edge

# ── models, instances, runners ───────────────────────────────────────────────────────────────────

enum ModelTask: TextGeneration TextToImage ImageToImage
enum ReasoningDialect: none post_last_user suffix channel tool_conditional
enum Sharding: Tensor Pipeline
enum InstanceMeta: MlxRing MlxJaccl

record ComponentInfo
  component_name str
  component_path str
  storage_size Memory
  n_layers positive? = default
  can_shard bool
  safetensors_index_filename str? = default
record VisionCardConfig
  image_token_id int
  model_type str
  weights_repo str = default
  image_token str? = default
  processor_repo str? = default
record SamplingValues
  temperature float? = default
  top_p float? = default
  top_k int? = default
  min_p float? = default
  repetition_penalty float? = default
  presence_penalty float? = default
  frequency_penalty float? = default
record SamplingDefaults
  temperature float? = default
  top_p float? = default
  top_k int? = default
  min_p float? = default
  repetition_penalty float? = default
  presence_penalty float? = default
  frequency_penalty float? = default
  thinking SamplingValues? = default
  non_thinking SamplingValues? = default
record ModelCard
  model_id str
  storage_size Memory
  n_layers positive
  hidden_size positive
  supports_tensor bool
  num_key_value_heads positive? = default
  tasks ModelTask[]
  components ComponentInfo[]? = default
  family str = default
  quantization str = default
  base_model str = default
  capabilities str[] = default
  backends Backend[]
  reasoning_dialect ReasoningDialect = default
  context_length int = default
  uses_cfg bool = default
  trust_remote_code bool = default
  is_custom bool = default
  vision VisionCardConfig? = default
  sampling_defaults SamplingDefaults = default

union ShardMetadata: PipelineShardMetadata CfgShardMetadata TensorShardMetadata
tagged PipelineShardMetadata
  model_card ModelCard
  device_rank int
  world_size int
  immediate_exception bool = default
  should_timeout float? = default
  start_layer uint
  end_layer uint
  n_layers uint
tagged TensorShardMetadata
  model_card ModelCard
  device_rank int
  world_size int
  immediate_exception bool = default
  should_timeout float? = default
  start_layer uint
  end_layer uint
  n_layers uint
tagged CfgShardMetadata
  model_card ModelCard
  device_rank int
  world_size int
  immediate_exception bool = default
  should_timeout float? = default
  start_layer uint
  end_layer uint
  n_layers uint
  cfg_rank int
  cfg_world_size int = default
  pipeline_rank int
  pipeline_world_size int
record ShardAssignments
  model_id str
  runner_to_shard ShardMetadata{}
  node_to_runner str{}
  rule every node's runner has a shard
record Host
  ip str
  port port
union Instance: MlxRingInstance MlxJacclInstance
tagged MlxRingInstance
  instance_id str
  shard_assignments ShardAssignments
  hosts_by_node Host[]{}
  ephemeral_port int
tagged MlxJacclInstance
  instance_id str
  shard_assignments ShardAssignments
  jaccl_devices str?[][]
  jaccl_coordinators str{}
record BoundInstance
  instance Instance
  bound_runner_id str
  bound_node_id str

union RunnerStatus: RunnerIdle RunnerConnecting RunnerConnected RunnerLoading RunnerLoaded RunnerWarmingUp RunnerReady
union RunnerStatus: RunnerRunning RunnerShuttingDown RunnerShutdown RunnerFailed
tagged RunnerIdle
tagged RunnerConnecting
tagged RunnerConnected
tagged RunnerLoading
  layers_loaded int = default
  total_layers int = default
tagged RunnerLoaded
tagged RunnerWarmingUp
tagged RunnerReady
  prefill_server_port int? = default
tagged RunnerRunning
tagged RunnerShuttingDown
tagged RunnerShutdown
tagged RunnerFailed
  error_message str? = default
  diagnostics RunnerDiagnostic[]
union RunnerDiagnostic: RunnerMetalGpuTimeout RunnerRingTransportError RunnerRingSocketReceivingError
tagged RunnerMetalGpuTimeout
  message str
  evidence str[] = default
tagged RunnerRingTransportError
  message str
  evidence str[] = default
tagged RunnerRingSocketReceivingError
  message str
  evidence str[] = default
  error_number int
  error_name str
  error_description str

union DownloadProgress: DownloadPending DownloadCompleted DownloadFailed DownloadOngoing
tagged DownloadPending
  node_id str
  shard_metadata ShardMetadata
  model_directory str = default
  downloaded Memory = default
  total Memory = default
tagged DownloadCompleted
  node_id str
  shard_metadata ShardMetadata
  model_directory str = default
  total Memory
  read_only bool = default
tagged DownloadFailed
  node_id str
  shard_metadata ShardMetadata
  model_directory str = default
  error_message str
tagged DownloadOngoing
  node_id str
  shard_metadata ShardMetadata
  model_directory str = default
  download_progress DownloadProgressData
record DownloadProgressData
  total Memory
  downloaded Memory
  downloaded_this_session Memory
  completed_files int
  total_files int
  speed float
  eta_ms int
  files DownloadProgressData{}

# ── tasks ────────────────────────────────────────────────────────────────────────────────────────

enum TaskStatus: Pending Running Complete TimedOut Failed Cancelled
enum MessageRole: user assistant system developer tool
enum ReasoningEffort: none minimal low medium high xhigh
union Task: CreateRunner DownloadModel ConnectToGroup LoadModel StartWarmup TaskTextGeneration CancelTask
union Task: TaskImageGeneration TaskImageEdits Shutdown
tagged CreateRunner
  task_id str = default
  task_status TaskStatus = default
  instance_id str
  bound_instance BoundInstance
tagged DownloadModel
  task_id str = default
  task_status TaskStatus = default
  instance_id str
  shard_metadata ShardMetadata
tagged LoadModel
  task_id str = default
  task_status TaskStatus = default
  instance_id str
tagged ConnectToGroup
  task_id str = default
  task_status TaskStatus = default
  instance_id str
tagged StartWarmup
  task_id str = default
  task_status TaskStatus = default
  instance_id str
tagged TaskTextGeneration as TextGeneration
  task_id str = default
  task_status TaskStatus = default
  instance_id str
  command_id str
  task_params TextGenerationTaskParams
  error_type str? = default
  error_message str? = default
tagged CancelTask
  task_id str = default
  task_status TaskStatus = default
  instance_id str
  cancelled_task_id str
  runner_id str
tagged TaskImageGeneration as ImageGeneration
  task_id str = default
  task_status TaskStatus = default
  instance_id str
  command_id str
  task_params json
  error_type str? = default
  error_message str? = default
tagged TaskImageEdits as ImageEdits
  task_id str = default
  task_status TaskStatus = default
  instance_id str
  command_id str
  task_params json
  error_type str? = default
  error_message str? = default
tagged Shutdown
  task_id str = default
  task_status TaskStatus = default
  instance_id str
  runner_id str
record InputMessage
  role MessageRole
  content str
record TextGenerationTaskParams
  model str
  input InputMessage[]
  instructions str? = default
  max_output_tokens int? = default
  temperature float? = default
  top_p float? = default
  stream bool = default
  tools json? = default
  bench bool = default
  use_prefix_cache bool = default
  top_k int? = default
  stop json? = default
  seed int? = default
  chat_template_messages json? = default
  reasoning_effort ReasoningEffort? = default
  enable_thinking bool? = default
  logprobs bool = default
  top_logprobs int? = default
  min_p float? = default
  repetition_penalty float? = default
  repetition_context_size int? = default
  presence_penalty float? = default
  frequency_penalty float? = default
  images str[] = default
  image_hashes str{} = default
  prefill_endpoint str? = default

# ── chunks ───────────────────────────────────────────────────────────────────────────────────────

enum TextEnd: stop length content_filter
enum ErrorEnd: error
enum ToolEnd: tool_calls
enum AnyEnd: stop length tool_calls content_filter function_call error
enum PrefixCacheHit: none partial exact
enum ImageFormat: png jpeg webp
union Chunk: PrefillProgressChunk TokenChunk ImageChunk ToolCallChunk ErrorChunk
union InputImageChunkChoice: InputImageChunk
record PromptTokensDetails
  cached_tokens int = default
  audio_tokens int = default
record CompletionTokensDetails
  reasoning_tokens int = default
  audio_tokens int = default
  accepted_prediction_tokens int = default
  rejected_prediction_tokens int = default
record Usage
  prompt_tokens int
  completion_tokens int
  total_tokens int
  prompt_tokens_details PromptTokensDetails
  completion_tokens_details CompletionTokensDetails
record GenerationStats
  prompt_tps float
  generation_tps float
  prompt_tokens int
  generation_tokens int
  peak_memory_usage Memory
  prefix_cache_hit PrefixCacheHit = default
record ImageGenerationStats
  seconds_per_step float
  total_generation_time float
  num_inference_steps int
  num_images int
  image_width int
  image_height int
  peak_memory_usage Memory
record TopLogprobItem
  token str
  logprob float
  bytes int[]? = default
record ToolCallItem
  id str = default
  name str
  arguments str
tagged TokenChunk
  model str
  text str
  token_id int
  usage Usage?
  finish_reason TextEnd? = default
  stats GenerationStats? = default
  logprob float? = default
  top_logprobs TopLogprobItem[]? = default
  is_thinking bool = default
tagged ErrorChunk
  model str
  error_message str
  finish_reason ErrorEnd = default
  diagnostics RunnerDiagnostic[] = default
tagged ToolCallChunk
  model str
  tool_calls ToolCallItem[]
  usage Usage?
  finish_reason ToolEnd = default
  stats GenerationStats? = default
tagged PrefillProgressChunk
  model str
  processed_tokens int
  total_tokens int
tagged ImageChunk
  model str
  data str
  chunk_index int
  total_chunks int
  image_index int
  is_partial bool = default
  partial_index int? = default
  total_partials int? = default
  stats ImageGenerationStats? = default
  format ImageFormat? = default
  finish_reason AnyEnd? = default
  error_message str? = default
tagged InputImageChunk
  model str
  command_id str
  data str
  chunk_index int
  total_chunks int
  image_index int = default

# ── what an exo node tells over HTTP ─────────────────────────────────────────────────────────────

# Other keys of `GET /state` mean that a session holds other things than we think.
list state_keys: instances runners downloads tasks lastSeen topology lastEventAppliedIdx nodeIdentities nodeMemory
list state_keys: nodeDisk nodeSystem nodeNetwork nodeThunderbolt nodeThunderboltBridge nodeRdmaCtl nodeBackends
list state_keys: thunderboltBridgeCycles instanceLinks prefillServerPorts customModelCards

# Types that both `/openapi.json` and our messages have.
list published: Backend InstanceMeta Sharding ModelTask ModelCard SamplingDefaults SamplingValues ComponentInfo
list published: VisionCardConfig Memory ShardAssignments PipelineShardMetadata MlxRingInstance MlxJacclInstance Host
"""
