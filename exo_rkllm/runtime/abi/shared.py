"""Layouts that more than one generation uses (reference 1.4), each named after the release that brought it.

LP64 only: the same offsets on aarch64 and x86-64. Names and order are the vendor's.
"""

from __future__ import annotations

from collections.abc import Mapping
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    Union,
    c_bool,
    c_char_p,
    c_float,
    c_int,
    c_int8,
    c_int32,
    c_size_t,
    c_uint8,
    c_uint32,
    c_uint64,
    c_void_p,
)
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias


class CallState(IntEnum):
    NORMAL = 0
    WAITING = 1
    FINISH = 2
    ERROR = 3
    GET_LAST_HIDDEN_LAYER = 4  # up to 1.1.4 only


class InputType(IntEnum):
    PROMPT = 0
    TOKEN = 1
    EMBED = 2
    MULTIMODAL = 3


class InferMode(IntEnum):
    GENERATE = 0
    GET_LAST_HIDDEN_LAYER = 1
    GET_LOGITS = 2  # from 1.2.0


# ── unchanged since 1.1.0 ────────────────────────────────────────────────────────────────────────


class RKLLMLoraAdapter(Structure):
    _fields_ = (("lora_adapter_path", c_char_p), ("lora_adapter_name", c_char_p), ("scale", c_float))


class RKLLMLoraParam(Structure):
    _fields_ = (("lora_adapter_name", c_char_p),)


class RKLLMPromptCacheParam(Structure):
    _fields_ = (("save_prompt_cache", c_int), ("prompt_cache_path", c_char_p))


class RKLLMEmbedInput(Structure):
    _fields_ = (("embed", POINTER(c_float)), ("n_tokens", c_size_t))


class RKLLMTokenInput(Structure):
    _fields_ = (("input_ids", POINTER(c_int32)), ("n_tokens", c_size_t))


class RKLLMResultLastHiddenLayer(Structure):
    _fields_ = (("hidden_states", POINTER(c_float)), ("embd_size", c_int), ("num_tokens", c_int))


class RKLLMMultiModelInput110(Structure):
    _fields_ = (("prompt", c_char_p), ("image_embed", POINTER(c_float)), ("n_image_tokens", c_size_t))


class InputUnion110(Union):
    _fields_ = (
        ("prompt_input", c_char_p),
        ("embed_input", RKLLMEmbedInput),
        ("token_input", RKLLMTokenInput),
        ("multimodal_input", RKLLMMultiModelInput110),
    )


class RKLLMInput110(Structure):
    _anonymous_ = ("union",)
    _fields_ = (("input_type", c_int), ("union", InputUnion110))


# ── since 1.2.0 ──────────────────────────────────────────────────────────────────────────────────


class RKLLMExtendParam120(Structure):
    _fields_ = (
        ("base_domain_id", c_int32),
        ("embed_flash", c_int8),
        ("enabled_cpus_num", c_int8),
        ("enabled_cpus_mask", c_uint32),
        ("reserved", c_uint8 * 106),
    )


class RKLLMParam120(Structure):
    _fields_ = (
        ("model_path", c_char_p),
        ("max_context_len", c_int32),
        ("max_new_tokens", c_int32),
        ("top_k", c_int32),
        ("n_keep", c_int32),
        ("top_p", c_float),
        ("temperature", c_float),
        ("repeat_penalty", c_float),
        ("frequency_penalty", c_float),
        ("presence_penalty", c_float),
        ("mirostat", c_int32),
        ("mirostat_tau", c_float),
        ("mirostat_eta", c_float),
        ("skip_special_token", c_bool),
        ("is_async", c_bool),
        ("img_start", c_char_p),
        ("img_end", c_char_p),
        ("img_content", c_char_p),
        ("extend_param", RKLLMExtendParam120),
    )


class RKLLMInferParam120(Structure):
    _fields_ = (
        ("mode", c_int),
        ("lora_params", POINTER(RKLLMLoraParam)),
        ("prompt_cache_params", POINTER(RKLLMPromptCacheParam)),
        ("keep_history", c_int),
    )


class RKLLMResultLogits(Structure):
    _fields_ = (("logits", POINTER(c_float)), ("vocab_size", c_int), ("num_tokens", c_int))


class RKLLMResult120(Structure):
    _fields_ = (
        ("text", c_char_p),
        ("token_id", c_int32),
        ("last_hidden_layer", RKLLMResultLastHiddenLayer),
        ("logits", RKLLMResultLogits),
    )


# ── since 1.2.1b1 ────────────────────────────────────────────────────────────────────────────────


class RKLLMMultiModalInput121b1(Structure):
    _fields_ = (
        ("prompt", c_char_p),
        ("image_embed", POINTER(c_float)),
        ("n_image_tokens", c_size_t),
        ("n_image", c_size_t),
        ("image_width", c_size_t),
        ("image_height", c_size_t),
    )


# ── since 1.2.1 ──────────────────────────────────────────────────────────────────────────────────


class RKLLMExtendParam121(Structure):
    _fields_ = (
        ("base_domain_id", c_int32),
        ("embed_flash", c_int8),
        ("enabled_cpus_num", c_int8),
        ("enabled_cpus_mask", c_uint32),
        ("n_batch", c_uint8),
        ("use_cross_attn", c_int8),
        ("reserved", c_uint8 * 104),
    )


class RKLLMCrossAttnParam(Structure):
    _fields_ = (
        ("encoder_k_cache", POINTER(c_float)),
        ("encoder_v_cache", POINTER(c_float)),
        ("encoder_mask", POINTER(c_float)),
        ("encoder_pos", POINTER(c_int32)),
        ("num_tokens", c_int),
    )


class RKLLMPerfStat(Structure):
    _fields_ = (
        ("prefill_time_ms", c_float),
        ("prefill_tokens", c_int),
        ("generate_time_ms", c_float),
        ("generate_tokens", c_int),
        ("memory_usage_mb", c_float),
    )


class RKLLMResult121(Structure):
    _fields_ = (
        ("text", c_char_p),
        ("token_id", c_int32),
        ("last_hidden_layer", RKLLMResultLastHiddenLayer),
        ("logits", RKLLMResultLogits),
        ("perf", RKLLMPerfStat),
    )


# ── since 1.3.0 ──────────────────────────────────────────────────────────────────────────────────


class RKLLMParam130(Structure):
    _fields_ = (
        ("model_path", c_char_p),
        ("max_context_len", c_int32),
        ("max_new_tokens", c_int32),
        ("top_k", c_int32),
        ("n_keep", c_int32),
        ("top_p", c_float),
        ("temperature", c_float),
        ("repeat_penalty", c_float),
        ("frequency_penalty", c_float),
        ("presence_penalty", c_float),
        ("mirostat", c_int32),
        ("mirostat_tau", c_float),
        ("mirostat_eta", c_float),
        ("skip_special_token", c_bool),
        ("ignore_eos_token", c_bool),
        ("is_async", c_bool),
        ("extend_param", RKLLMExtendParam121),
    )


class RKLLMSamplingParam(Structure):
    _fields_ = (
        ("top_k", c_int32),
        ("top_p", c_float),
        ("temperature", c_float),
        ("repeat_penalty", c_float),
        ("frequency_penalty", c_float),
        ("presence_penalty", c_float),
        ("mirostat", c_int32),
        ("mirostat_tau", c_float),
        ("mirostat_eta", c_float),
    )


SAMPLING_NAMES = tuple(name for name, _ in RKLLMSamplingParam._fields_)


class RKLLMInferParam130(Structure):
    _fields_ = (
        ("mode", c_int),
        ("lora_params", POINTER(RKLLMLoraParam)),
        ("prompt_cache_params", POINTER(RKLLMPromptCacheParam)),
        ("sampling_params", POINTER(RKLLMSamplingParam)),
        ("keep_history", c_int),
        ("max_new_tokens", c_int32),
    )


class ImageInput(Structure):
    _fields_ = (
        ("image_embed", POINTER(c_float)),
        ("n_image_tokens", c_size_t),
        ("n_image", c_size_t),
        ("image_start", c_char_p),
        ("image_end", c_char_p),
        ("image_content", c_char_p),
        ("image_width", c_size_t),
        ("image_height", c_size_t),
    )


class VideoInput(Structure):
    _fields_ = (
        ("video_embed", POINTER(c_float)),
        ("n_frame_tokens", c_size_t),
        ("n_frame_per_video", c_size_t),
        ("n_video", c_size_t),
        ("video_start", c_char_p),
        ("video_end", c_char_p),
        ("video_content", c_char_p),
        ("frame_width", c_size_t),
        ("frame_height", c_size_t),
    )


# ── callbacks ────────────────────────────────────────────────────────────────────────────────────
# A result comes as a bare address: POINTER(RKLLMResult) builds an object at every token, whether it is read or not
# (bench/callback.py).

VoidResultCallback = CFUNCTYPE(None, c_void_p, c_void_p, c_int)  # up to 1.2.1b1
IntResultCallback = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)  # from 1.2.1
# userdata, text, its length, room for ids, how many fit; answers how many ids, negative for an error (from 1.3.0)
LLMTokenizerCallback = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int32, POINTER(c_int32), c_int32)
# userdata, ids, how many, room for float32 rows, its bytes; answers 0 (from 1.3.0)
LLMGetEmbedCallback = CFUNCTYPE(c_int, c_void_p, POINTER(c_int32), c_uint64, c_void_p, c_uint64)


class RKLLMCallback(Structure):
    _fields_ = (
        ("result_callback", IntResultCallback),
        ("result_userdata", c_void_p),
        ("tokenizer_callback", LLMTokenizerCallback),
        ("tokenizer_userdata", c_void_p),
        ("embed_callback", LLMGetEmbedCallback),
        ("embed_userdata", c_void_p),
    )


# ── what a generation module holds ───────────────────────────────────────────────────────────────

Handle = c_void_p
Signatures: TypeAlias = Mapping[str, tuple[Any, tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class Generation:
    """The layouts that differ between generations; the structs that never changed are taken from this module."""

    name: str  # the first release that has it
    param: type[Structure]
    multimodal_input: type[Structure]
    input: type[Structure]
    infer_param: type[Structure]
    result: type[Structure]
    result_callback: Any
    # Name to (result type, argument types). createDefaultParam stands here for completeness; nothing calls it: it
    # writes through a hidden pointer and leaves fields unset, and a zeroed struct does its job (1.7, 1.8).
    functions: Signatures


SINCE_110: Signatures = {
    "rkllm_destroy": (c_int, (Handle,)),
    "rkllm_abort": (c_int, (Handle,)),
    "rkllm_is_running": (c_int, (Handle,)),
    "rkllm_load_lora": (c_int, (Handle, POINTER(RKLLMLoraAdapter))),
    "rkllm_load_prompt_cache": (c_int, (Handle, c_char_p)),
    "rkllm_release_prompt_cache": (c_int, (Handle,)),
}
SINCE_120: Signatures = {
    **SINCE_110,
    "rkllm_set_chat_template": (c_int, (Handle, c_char_p, c_char_p, c_char_p)),
    "rkllm_clear_kv_cache": (c_int, (Handle, c_int)),
}
SINCE_121: Signatures = {
    **SINCE_120,
    "rkllm_clear_kv_cache": (c_int, (Handle, c_int, POINTER(c_int), POINTER(c_int))),
    "rkllm_get_kv_cache_size": (c_int, (Handle, POINTER(c_int))),
    "rkllm_set_function_tools": (c_int, (Handle, c_char_p, c_char_p, c_char_p)),
    "rkllm_set_cross_attn_params": (c_int, (Handle, POINTER(RKLLMCrossAttnParam))),
}
