"""1.1.0 to 1.1.4: five byte-identical headers."""

from __future__ import annotations

from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    Union,
    c_bool,
    c_char_p,
    c_float,
    c_int,
    c_int32,
    c_size_t,
    c_uint8,
    c_void_p,
)

from exo_rkllm.runtime.abi import common


class ExtendParam(Structure):
    _fields_ = (("base_domain_id", c_int32), ("reserved", c_uint8 * 112))


class Param(Structure):
    _fields_ = (
        ("model_path", c_char_p),
        ("max_context_len", c_int32),
        ("max_new_tokens", c_int32),
        ("top_k", c_int32),
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


class MultimodalInput(Structure):
    _fields_ = (("prompt", c_char_p), ("image_embed", c_void_p), ("n_image_tokens", c_size_t))


class Inputs(Union):
    _fields_ = (
        ("prompt_input", c_char_p),
        ("embed_input", common.EmbedInput),
        ("token_input", common.TokenInput),
        ("multimodal_input", MultimodalInput),
    )


class Input(Structure):
    _anonymous_ = ("inputs",)
    _fields_ = (("input_type", c_int), ("inputs", Inputs))


class InferParam(Structure):
    _fields_ = (
        ("mode", c_int),
        ("lora_params", POINTER(common.LoraParam)),
        ("prompt_cache_params", POINTER(common.PromptCacheParam)),
    )


class Result(Structure):
    _fields_ = (
        ("text", c_char_p),
        ("token_id", c_int32),
        ("last_hidden_layer", common.ResultLastHiddenLayer),
    )


ResultCallback = CFUNCTYPE(None, c_void_p, c_void_p, c_int)
CALLBACK_RETURNS = False
SIGNATURES = common.signatures(Param, Input, InferParam, ResultCallback)
