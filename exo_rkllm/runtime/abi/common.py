"""Structs, enums and signatures that did not change since 1.1.0 (offsets: tests/runtime/abi_table.py)."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int32, c_size_t, c_void_p
from enum import IntEnum
from typing import Any

Signatures = dict[str, tuple[Any, tuple[Any, ...]]]


class State(IntEnum):
    """What a callback reports."""

    NORMAL = 0
    WAITING = 1
    FINISH = 2
    ERROR = 3
    LAST_HIDDEN_LAYER = 4  # 1.1.x only


class InputType(IntEnum):
    PROMPT = 0
    TOKEN = 1
    EMBED = 2
    MULTIMODAL = 3


class Mode(IntEnum):
    GENERATE = 0
    LAST_HIDDEN_LAYER = 1
    LOGITS = 2  # since 1.2.0


class LoraAdapter(Structure):
    _fields_ = (("lora_adapter_path", c_char_p), ("lora_adapter_name", c_char_p), ("scale", c_float))


class LoraParam(Structure):
    _fields_ = (("lora_adapter_name", c_char_p),)


class PromptCacheParam(Structure):
    _fields_ = (("save_prompt_cache", c_int), ("prompt_cache_path", c_char_p))


class EmbedInput(Structure):
    _fields_ = (("embed", c_void_p), ("n_tokens", c_size_t))


class TokenInput(Structure):
    _fields_ = (("input_ids", POINTER(c_int32)), ("n_tokens", c_size_t))


class ResultLastHiddenLayer(Structure):
    _fields_ = (("hidden_states", c_void_p), ("embd_size", c_int), ("num_tokens", c_int))


class ResultLogits(Structure):
    """Since 1.2.0."""

    _fields_ = (("logits", c_void_p), ("vocab_size", c_int), ("num_tokens", c_int))


class PerfStat(Structure):
    """Since 1.2.1; filled in the FINISH callback only."""

    _fields_ = (
        ("prefill_time_ms", c_float),
        ("prefill_tokens", c_int),
        ("generate_time_ms", c_float),
        ("generate_tokens", c_int),
        ("memory_usage_mb", c_float),
    )


class CrossAttnParam(Structure):
    """Since 1.2.1."""

    _fields_ = (
        ("encoder_k_cache", c_void_p),
        ("encoder_v_cache", c_void_p),
        ("encoder_mask", c_void_p),
        ("encoder_pos", POINTER(c_int32)),
        ("num_tokens", c_int),
    )


def signatures(param: Any, run_input: Any, infer_param: Any, callback: Any) -> Signatures:
    """Result type and argument types of the functions every generation exports."""
    run = (c_void_p, POINTER(run_input), POINTER(infer_param), c_void_p)
    return {
        "rkllm_createDefaultParam": (param, ()),
        "rkllm_init": (c_int, (POINTER(c_void_p), POINTER(param), callback)),
        "rkllm_destroy": (c_int, (c_void_p,)),
        "rkllm_run": (c_int, run),
        "rkllm_run_async": (c_int, run),
        "rkllm_abort": (c_int, (c_void_p,)),
        "rkllm_is_running": (c_int, (c_void_p,)),
        "rkllm_load_lora": (c_int, (c_void_p, POINTER(LoraAdapter))),
        "rkllm_load_prompt_cache": (c_int, (c_void_p, c_char_p)),
        "rkllm_release_prompt_cache": (c_int, (c_void_p,)),
    }
