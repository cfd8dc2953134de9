"""The vendor's headers in figures: what a compiler measured, copied from the notes on the runtime (LP64).

Nothing here is computed from the code under test. Standard library only: this also runs under an arm64 interpreter.
"""

from __future__ import annotations

from typing import NamedTuple


class Field(NamedTuple):
    offset: int
    type: str
    name: str


class Layout(NamedTuple):
    size: int
    align: int
    fields: tuple[Field, ...]


# Release that brought them, and the structs that it changed: name, sizeof, align; then offset, type, field.
HEADERS = {
    "1.1.0": """
RKLLMLoraAdapter 24 8
     0  const char*                 lora_adapter_path
     8  const char*                 lora_adapter_name
    16  float                       scale
RKLLMLoraParam 8 8
     0  const char*                 lora_adapter_name
RKLLMPromptCacheParam 16 8
     0  int                         save_prompt_cache
     8  const char*                 prompt_cache_path
RKLLMEmbedInput 16 8
     0  float*                      embed
     8  size_t                      n_tokens
RKLLMTokenInput 16 8
     0  int32_t*                    input_ids
     8  size_t                      n_tokens
RKLLMResultLastHiddenLayer 16 8
     0  const float*                hidden_states
     8  int                         embd_size
    12  int                         num_tokens
RKLLMExtendParam 116 4
     0  int32_t                     base_domain_id
     4  uint8_t[112]                reserved
RKLLMParam 200 8
     0  const char*                 model_path
     8  int32_t                     max_context_len
    12  int32_t                     max_new_tokens
    16  int32_t                     top_k
    20  float                       top_p
    24  float                       temperature
    28  float                       repeat_penalty
    32  float                       frequency_penalty
    36  float                       presence_penalty
    40  int32_t                     mirostat
    44  float                       mirostat_tau
    48  float                       mirostat_eta
    52  bool                        skip_special_token
    53  bool                        is_async
    56  const char*                 img_start
    64  const char*                 img_end
    72  const char*                 img_content
    80  RKLLMExtendParam            extend_param
RKLLMMultiModalInput 24 8
     0  char*                       prompt
     8  float*                      image_embed
    16  size_t                      n_image_tokens
RKLLMInput 32 8
     0  RKLLMInputType              input_type
     8  const char*                 prompt_input
     8  RKLLMEmbedInput             embed_input
     8  RKLLMTokenInput             token_input
     8  RKLLMMultiModalInput        multimodal_input
RKLLMInferParam 24 8
     0  RKLLMInferMode              mode
     8  RKLLMLoraParam*             lora_params
    16  RKLLMPromptCacheParam*      prompt_cache_params
RKLLMResult 32 8
     0  const char*                 text
     8  int32_t                     token_id
    16  RKLLMResultLastHiddenLayer  last_hidden_layer
""",
    "1.2.0": """
RKLLMResultLogits 16 8
     0  const float*                logits
     8  int                         vocab_size
    12  int                         num_tokens
RKLLMExtendParam 120 4
     0  int32_t                     base_domain_id
     4  int8_t                      embed_flash
     5  int8_t                      enabled_cpus_num
     8  uint32_t                    enabled_cpus_mask
    12  uint8_t[106]                reserved
RKLLMParam 208 8
     0  const char*                 model_path
     8  int32_t                     max_context_len
    12  int32_t                     max_new_tokens
    16  int32_t                     top_k
    20  int32_t                     n_keep
    24  float                       top_p
    28  float                       temperature
    32  float                       repeat_penalty
    36  float                       frequency_penalty
    40  float                       presence_penalty
    44  int32_t                     mirostat
    48  float                       mirostat_tau
    52  float                       mirostat_eta
    56  bool                        skip_special_token
    57  bool                        is_async
    64  const char*                 img_start
    72  const char*                 img_end
    80  const char*                 img_content
    88  RKLLMExtendParam            extend_param
RKLLMInferParam 32 8
     0  RKLLMInferMode              mode
     8  RKLLMLoraParam*             lora_params
    16  RKLLMPromptCacheParam*      prompt_cache_params
    24  int                         keep_history
RKLLMResult 48 8
     0  const char*                 text
     8  int32_t                     token_id
    16  RKLLMResultLastHiddenLayer  last_hidden_layer
    32  RKLLMResultLogits           logits
""",
    "1.2.1b1": """
RKLLMMultiModalInput 48 8
     0  char*                       prompt
     8  float*                      image_embed
    16  size_t                      n_image_tokens
    24  size_t                      n_image
    32  size_t                      image_width
    40  size_t                      image_height
RKLLMInput 56 8
     0  RKLLMInputType              input_type
     8  const char*                 prompt_input
     8  RKLLMEmbedInput             embed_input
     8  RKLLMTokenInput             token_input
     8  RKLLMMultiModalInput        multimodal_input
""",
    "1.2.1": """
RKLLMCrossAttnParam 40 8
     0  float*                      encoder_k_cache
     8  float*                      encoder_v_cache
    16  float*                      encoder_mask
    24  int32_t*                    encoder_pos
    32  int                         num_tokens
RKLLMPerfStat 20 4
     0  float                       prefill_time_ms
     4  int                         prefill_tokens
     8  float                       generate_time_ms
    12  int                         generate_tokens
    16  float                       memory_usage_mb
RKLLMExtendParam 120 4
     0  int32_t                     base_domain_id
     4  int8_t                      embed_flash
     5  int8_t                      enabled_cpus_num
     8  uint32_t                    enabled_cpus_mask
    12  uint8_t                     n_batch
    13  int8_t                      use_cross_attn
    14  uint8_t[104]                reserved
RKLLMInput 64 8
     0  const char*                 role
     8  bool                        enable_thinking
    12  RKLLMInputType              input_type
    16  const char*                 prompt_input
    16  RKLLMEmbedInput             embed_input
    16  RKLLMTokenInput             token_input
    16  RKLLMMultiModalInput        multimodal_input
RKLLMResult 72 8
     0  const char*                 text
     8  int32_t                     token_id
    16  RKLLMResultLastHiddenLayer  last_hidden_layer
    32  RKLLMResultLogits           logits
    48  RKLLMPerfStat               perf
""",
    "1.3.0": """
RKLLMParam 184 8
     0  const char*                 model_path
     8  int32_t                     max_context_len
    12  int32_t                     max_new_tokens
    16  int32_t                     top_k
    20  int32_t                     n_keep
    24  float                       top_p
    28  float                       temperature
    32  float                       repeat_penalty
    36  float                       frequency_penalty
    40  float                       presence_penalty
    44  int32_t                     mirostat
    48  float                       mirostat_tau
    52  float                       mirostat_eta
    56  bool                        skip_special_token
    57  bool                        ignore_eos_token
    58  bool                        is_async
    60  RKLLMExtendParam            extend_param
RKLLMMultiModalInput 144 8
     0  char*                       prompt
     8  float*                      image.image_embed
    16  size_t                      image.n_image_tokens
    24  size_t                      image.n_image
    32  const char*                 image.image_start
    40  const char*                 image.image_end
    48  const char*                 image.image_content
    56  size_t                      image.image_width
    64  size_t                      image.image_height
    72  float*                      video.video_embed
    80  size_t                      video.n_frame_tokens
    88  size_t                      video.n_frame_per_video
    96  size_t                      video.n_video
   104  const char*                 video.video_start
   112  const char*                 video.video_end
   120  const char*                 video.video_content
   128  size_t                      video.frame_width
   136  size_t                      video.frame_height
RKLLMInput 160 8
     0  const char*                 role
     8  bool                        enable_thinking
    12  RKLLMInputType              input_type
    16  const char*                 prompt_input
    16  RKLLMEmbedInput             embed_input
    16  RKLLMTokenInput             token_input
    16  RKLLMMultiModalInput        multimodal_input
RKLLMSamplingParam 36 4
     0  int32_t                     top_k
     4  float                       top_p
     8  float                       temperature
    12  float                       repeat_penalty
    16  float                       frequency_penalty
    20  float                       presence_penalty
    24  int32_t                     mirostat
    28  float                       mirostat_tau
    32  float                       mirostat_eta
RKLLMInferParam 40 8
     0  RKLLMInferMode              mode
     8  RKLLMLoraParam*             lora_params
    16  RKLLMPromptCacheParam*      prompt_cache_params
    24  RKLLMSamplingParam*         sampling_params
    32  int                         keep_history
    36  int32_t                     max_new_tokens
RKLLMCallback 48 8
     0  LLMResultCallback           result_callback
     8  void*                       result_userdata
    16  LLMTokenizerCallback        tokenizer_callback
    24  void*                       tokenizer_userdata
    32  LLMGetEmbedCallback         embed_callback
    40  void*                       embed_userdata
""",
    "1.3.1": """
RKLLMMultiModalInput 192 8
     0  char*                       prompt
     8  float*                      image.image_embed
    16  size_t                      image.n_image_tokens
    24  size_t                      image.n_image
    32  const char*                 image.image_start
    40  const char*                 image.image_end
    48  const char*                 image.image_content
    56  size_t                      image.image_width
    64  size_t                      image.image_height
    72  float*                      video.video_embed
    80  size_t                      video.n_frame_tokens
    88  size_t                      video.n_frame_per_video
    96  size_t                      video.n_video
   104  const char*                 video.video_start
   112  const char*                 video.video_end
   120  const char*                 video.video_content
   128  size_t                      video.frame_width
   136  size_t                      video.frame_height
   144  float*                      audio.audio_embed
   152  size_t                      audio.n_audio_tokens
   160  size_t                      audio.n_audio
   168  const char*                 audio.audio_start
   176  const char*                 audio.audio_end
   184  const char*                 audio.audio_content
RKLLMInput 208 8
     0  const char*                 role
     8  bool                        enable_thinking
    12  RKLLMInputType              input_type
    16  const char*                 prompt_input
    16  RKLLMEmbedInput             embed_input
    16  RKLLMTokenInput             token_input
    16  RKLLMMultiModalInput        multimodal_input
""",
}

# The same sizes as a matrix (1.3 of the notes), a second source for the first: one column a generation, - where absent.
SIZES = """
                                1.1.0    1.2.0  1.2.1b1    1.2.1    1.3.0    1.3.1
RKLLMParam                        200      208      208      208      184      184
RKLLMExtendParam                  116      120      120      120      120      120
RKLLMInput                         32       32       56       64      160      208
RKLLMMultiModalInput               24       24       48       48      144      192
RKLLMEmbedInput                    16       16       16       16       16       16
RKLLMTokenInput                    16       16       16       16       16       16
RKLLMInferParam                    24       32       32       32       40       40
RKLLMSamplingParam                  -        -        -        -       36       36
RKLLMLoraAdapter                   24       24       24       24       24       24
RKLLMLoraParam                      8        8        8        8        8        8
RKLLMPromptCacheParam              16       16       16       16       16       16
RKLLMCrossAttnParam                 -        -        -       40       40       40
RKLLMResult                        32       48       48       72       72       72
RKLLMResultLastHiddenLayer         16       16       16       16       16       16
RKLLMResultLogits                   -       16       16       16       16       16
RKLLMPerfStat                       -        -        -       20       20       20
RKLLMCallback                       -        -        -        -       48       48
"""

# What each generation exports (1.6 of the notes), with the number of arguments; a later one has all of the earlier.
FUNCTIONS = {
    "1.1.0": {
        "rkllm_createDefaultParam": 0,
        "rkllm_init": 3,
        "rkllm_destroy": 1,
        "rkllm_run": 4,
        "rkllm_abort": 1,
        "rkllm_run_async": 4,
        "rkllm_is_running": 1,
        "rkllm_load_lora": 2,
        "rkllm_load_prompt_cache": 2,
        "rkllm_release_prompt_cache": 1,
    },
    "1.2.0": {"rkllm_set_chat_template": 4, "rkllm_clear_kv_cache": 2},
    "1.2.1b1": {},
    "1.2.1": {
        "rkllm_clear_kv_cache": 4,
        "rkllm_get_kv_cache_size": 2,
        "rkllm_set_function_tools": 4,
        "rkllm_set_cross_attn_params": 2,
    },
    "1.3.0": {},
    "1.3.1": {},
}

# Bytes of each C type in the table, where no pointer says it already.
WIDTHS = {
    "bool": 1,
    "int8_t": 1,
    "uint8_t": 1,
    "int": 4,
    "int32_t": 4,
    "uint32_t": 4,
    "float": 4,
    "size_t": 8,
    "RKLLMInputType": 4,
    "RKLLMInferMode": 4,
}
POINTERS = ("LLMResultCallback", "LLMTokenizerCallback", "LLMGetEmbedCallback")


def _parse(text: str) -> dict[str, Layout]:
    found: dict[str, tuple[int, int, list[Field]]] = {}
    fields: list[Field] = []
    for line in text.strip().splitlines():
        if line.startswith(" "):
            offset, rest = line.split(maxsplit=1)
            kind, name = rest.rsplit(maxsplit=1)
            fields.append(Field(int(offset), kind, name))
        else:
            name, size, align = line.split()
            fields = []
            found[name] = (int(size), int(align), fields)
    return {name: Layout(size, align, tuple(fields)) for name, (size, align, fields) in found.items()}


def layouts(generation: str) -> dict[str, Layout]:
    """Every struct of a generation: its own, over those of the generations before."""
    found: dict[str, Layout] = {}
    for name, text in HEADERS.items():
        found |= _parse(text)
        if name == generation:
            return found
    raise KeyError(generation)


def functions(generation: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, own in FUNCTIONS.items():
        found |= own
        if name == generation:
            return found
    raise KeyError(generation)


def sizes(generation: str) -> dict[str, int]:
    head, *rows = SIZES.strip("\n").splitlines()
    column = head.split().index(generation)
    found = {row.split()[0]: row.split()[1 + column] for row in rows}
    return {name: int(size) for name, size in found.items() if size != "-"}


def width(kind: str, structs: dict[str, Layout]) -> int:
    """Bytes of a field of this C type."""
    plain, _, count = kind.partition("[")
    if plain.endswith("*") or plain in POINTERS:
        return 8
    size = structs[plain].size if plain in structs else WIDTHS[plain]
    return size * int(count.rstrip("]")) if count else size
