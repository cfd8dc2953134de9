"""1.2.1 to 1.2.3: roles, performance figures, a callback that returns, cross attention, tools."""

from __future__ import annotations

from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_bool,
    c_char_p,
    c_float,
    c_int,
    c_int8,
    c_int32,
    c_uint8,
    c_uint32,
    c_void_p,
)

from exo_rkllm.runtime.abi import common
from exo_rkllm.runtime.abi.v1_2_0 import InferParam as InferParam
from exo_rkllm.runtime.abi.v1_2_1b1 import Inputs as Inputs
from exo_rkllm.runtime.abi.v1_2_1b1 import MultimodalInput as MultimodalInput


class ExtendParam(Structure):
    _fields_ = (
        ("base_domain_id", c_int32),
        ("embed_flash", c_int8),
        ("enabled_cpus_num", c_int8),
        ("enabled_cpus_mask", c_uint32),
        ("n_batch", c_uint8),
        ("use_cross_attn", c_int8),
        ("reserved", c_uint8 * 104),
    )


class Param(Structure):
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
        ("extend_param", ExtendParam),
    )


class Input(Structure):
    _anonymous_ = ("inputs",)
    _fields_ = (("role", c_char_p), ("enable_thinking", c_bool), ("input_type", c_int), ("inputs", Inputs))


class Result(Structure):
    _fields_ = (
        ("text", c_char_p),
        ("token_id", c_int32),
        ("last_hidden_layer", common.ResultLastHiddenLayer),
        ("logits", common.ResultLogits),
        ("perf", common.PerfStat),
    )


ResultCallback = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
CALLBACK_RETURNS = True
# New with this generation, and unchanged since.
ADDED: common.Signatures = {
    "rkllm_set_chat_template": (c_int, (c_void_p, c_char_p, c_char_p, c_char_p)),
    "rkllm_clear_kv_cache": (c_int, (c_void_p, c_int, POINTER(c_int), POINTER(c_int))),
    "rkllm_get_kv_cache_size": (c_int, (c_void_p, POINTER(c_int))),
    "rkllm_set_function_tools": (c_int, (c_void_p, c_char_p, c_char_p, c_char_p)),
    "rkllm_set_cross_attn_params": (c_int, (c_void_p, POINTER(common.CrossAttnParam))),
}
SIGNATURES: common.Signatures = {**common.signatures(Param, Input, InferParam, ResultCallback), **ADDED}
