"""1.3.0: sampling a run, three callbacks in one struct, image and video apart."""

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
    c_uint64,
    c_void_p,
)

from exo_rkllm.runtime.abi import common
from exo_rkllm.runtime.abi.v1_2_1 import ADDED as ADDED
from exo_rkllm.runtime.abi.v1_2_1 import ExtendParam as ExtendParam
from exo_rkllm.runtime.abi.v1_2_1 import Result as Result
from exo_rkllm.runtime.abi.v1_2_1 import ResultCallback as ResultCallback


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
        ("ignore_eos_token", c_bool),
        ("is_async", c_bool),
        ("extend_param", ExtendParam),
    )


class Image(Structure):
    _fields_ = (
        ("image_embed", c_void_p),
        ("n_image_tokens", c_size_t),
        ("n_image", c_size_t),
        ("image_start", c_char_p),
        ("image_end", c_char_p),
        ("image_content", c_char_p),
        ("image_width", c_size_t),
        ("image_height", c_size_t),
    )


class Video(Structure):
    _fields_ = (
        ("video_embed", c_void_p),
        ("n_frame_tokens", c_size_t),
        ("n_frame_per_video", c_size_t),
        ("n_video", c_size_t),
        ("video_start", c_char_p),
        ("video_end", c_char_p),
        ("video_content", c_char_p),
        ("frame_width", c_size_t),
        ("frame_height", c_size_t),
    )


class MultimodalInput(Structure):
    _fields_ = (("prompt", c_char_p), ("image", Image), ("video", Video))


class Inputs(Union):
    _fields_ = (
        ("prompt_input", c_char_p),
        ("embed_input", common.EmbedInput),
        ("token_input", common.TokenInput),
        ("multimodal_input", MultimodalInput),
    )


class Input(Structure):
    _anonymous_ = ("inputs",)
    _fields_ = (("role", c_char_p), ("enable_thinking", c_bool), ("input_type", c_int), ("inputs", Inputs))


class SamplingParam(Structure):
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


class InferParam(Structure):
    _fields_ = (
        ("mode", c_int),
        ("lora_params", POINTER(common.LoraParam)),
        ("prompt_cache_params", POINTER(common.PromptCacheParam)),
        ("sampling_params", POINTER(SamplingParam)),
        ("keep_history", c_int),
        ("max_new_tokens", c_int32),
    )


TokenizerCallback = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int32, POINTER(c_int32), c_int32)
EmbedCallback = CFUNCTYPE(c_int, c_void_p, POINTER(c_int32), c_uint64, c_void_p, c_uint64)


class Callback(Structure):
    _fields_ = (
        ("result_callback", ResultCallback),
        ("result_userdata", c_void_p),
        ("tokenizer_callback", TokenizerCallback),
        ("tokenizer_userdata", c_void_p),
        ("embed_callback", EmbedCallback),
        ("embed_userdata", c_void_p),
    )


CALLBACK_RETURNS = True
SIGNATURES: common.Signatures = {**common.signatures(Param, Input, InferParam, POINTER(Callback)), **ADDED}
