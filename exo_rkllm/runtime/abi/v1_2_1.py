"""Runtime 1.2.1 to 1.2.3: role and thinking, pause, batches, tools, cross attention, statistics (reference, G4)."""

from __future__ import annotations

from ctypes import POINTER, Structure, Union, c_bool, c_char_p, c_float, c_int, c_int32, c_void_p

from exo_rkllm.runtime.abi.shared import (
    SINCE_121,
    Generation,
    Handle,
    IntResultCallback,
    RKLLMEmbedInput,
    RKLLMExtendParam121,
    RKLLMInferParam120,
    RKLLMMultiModalInput121b1,
    RKLLMResult121,
    RKLLMTokenInput,
)


class RKLLMParam(Structure):
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
        ("extend_param", RKLLMExtendParam121),
    )


class InputUnion(Union):
    _fields_ = (
        ("prompt_input", c_char_p),
        ("embed_input", RKLLMEmbedInput),
        ("token_input", RKLLMTokenInput),
        ("multimodal_input", RKLLMMultiModalInput121b1),
    )


class RKLLMInput(Structure):
    _anonymous_ = ("union",)
    _fields_ = (("role", c_char_p), ("enable_thinking", c_bool), ("input_type", c_int), ("union", InputUnion))


GENERATION = Generation(
    name="1.2.1",
    param=RKLLMParam,
    multimodal_input=RKLLMMultiModalInput121b1,
    input=RKLLMInput,
    infer_param=RKLLMInferParam120,
    result=RKLLMResult121,
    result_callback=IntResultCallback,
    functions={
        **SINCE_121,
        "rkllm_createDefaultParam": (RKLLMParam, ()),
        "rkllm_init": (c_int, (POINTER(Handle), POINTER(RKLLMParam), IntResultCallback)),
        "rkllm_run": (c_int, (Handle, POINTER(RKLLMInput), POINTER(RKLLMInferParam120), c_void_p)),
        "rkllm_run_async": (c_int, (Handle, POINTER(RKLLMInput), POINTER(RKLLMInferParam120), c_void_p)),
    },
)
