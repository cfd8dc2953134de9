"""1.2.0: n_keep, CPU choice, history, logits, chat template; the input is still that of 1.1."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int, c_int8, c_int32, c_uint8, c_uint32, c_void_p

from exo_rkllm.runtime.abi import common
from exo_rkllm.runtime.abi.v1_1 import Input as Input
from exo_rkllm.runtime.abi.v1_1 import MultimodalInput as MultimodalInput
from exo_rkllm.runtime.abi.v1_1 import ResultCallback as ResultCallback


class ExtendParam(Structure):
    _fields_ = (
        ("base_domain_id", c_int32),
        ("embed_flash", c_int8),
        ("enabled_cpus_num", c_int8),
        ("enabled_cpus_mask", c_uint32),
        ("reserved", c_uint8 * 106),
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


class InferParam(Structure):
    _fields_ = (
        ("mode", c_int),
        ("lora_params", POINTER(common.LoraParam)),
        ("prompt_cache_params", POINTER(common.PromptCacheParam)),
        ("keep_history", c_int),
    )


class Result(Structure):
    _fields_ = (
        ("text", c_char_p),
        ("token_id", c_int32),
        ("last_hidden_layer", common.ResultLastHiddenLayer),
        ("logits", common.ResultLogits),
    )


CALLBACK_RETURNS = False
SIGNATURES: common.Signatures = {
    **common.signatures(Param, Input, InferParam, ResultCallback),
    "rkllm_set_chat_template": (c_int, (c_void_p, c_char_p, c_char_p, c_char_p)),
    "rkllm_clear_kv_cache": (c_int, (c_void_p, c_int)),
}
