"""Runtime 1.1.0 to 1.1.4: identical headers (reference, G2)."""

from __future__ import annotations

from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int, c_int32, c_uint8, c_void_p

from exo_rkllm.runtime.abi.shared import (
    SINCE_110,
    Generation,
    Handle,
    RKLLMInput110,
    RKLLMLoraParam,
    RKLLMMultiModelInput110,
    RKLLMPromptCacheParam,
    RKLLMResultLastHiddenLayer,
    VoidResultCallback,
)


class RKLLMExtendParam(Structure):
    _fields_ = (("base_domain_id", c_int32), ("reserved", c_uint8 * 112))


class RKLLMParam(Structure):
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
        ("extend_param", RKLLMExtendParam),
    )


class RKLLMInferParam(Structure):
    _fields_ = (
        ("mode", c_int),
        ("lora_params", POINTER(RKLLMLoraParam)),
        ("prompt_cache_params", POINTER(RKLLMPromptCacheParam)),
    )


class RKLLMResult(Structure):
    _fields_ = (("text", c_char_p), ("token_id", c_int32), ("last_hidden_layer", RKLLMResultLastHiddenLayer))


GENERATION = Generation(
    name="1.1.0",
    param=RKLLMParam,
    multimodal_input=RKLLMMultiModelInput110,
    input=RKLLMInput110,
    infer_param=RKLLMInferParam,
    result=RKLLMResult,
    result_callback=VoidResultCallback,
    functions={
        **SINCE_110,
        "rkllm_createDefaultParam": (RKLLMParam, ()),
        "rkllm_init": (c_int, (POINTER(Handle), POINTER(RKLLMParam), VoidResultCallback)),
        "rkllm_run": (c_int, (Handle, POINTER(RKLLMInput110), POINTER(RKLLMInferParam), c_void_p)),
        "rkllm_run_async": (c_int, (Handle, POINTER(RKLLMInput110), POINTER(RKLLMInferParam), c_void_p)),
    },
)
