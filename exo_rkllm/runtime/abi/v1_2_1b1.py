"""Runtime 1.2.1b1: as 1.2.0, but for several images and their size in the multimodal input (reference, G3b)."""

from __future__ import annotations

from ctypes import POINTER, Structure, Union, c_char_p, c_int, c_void_p

from exo_rkllm.runtime.abi.shared import (
    SINCE_120,
    Generation,
    Handle,
    RKLLMEmbedInput,
    RKLLMInferParam120,
    RKLLMMultiModalInput121b1,
    RKLLMParam120,
    RKLLMResult120,
    RKLLMTokenInput,
    VoidResultCallback,
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
    _fields_ = (("input_type", c_int), ("union", InputUnion))


GENERATION = Generation(
    name="1.2.1b1",
    param=RKLLMParam120,
    multimodal_input=RKLLMMultiModalInput121b1,
    input=RKLLMInput,
    infer_param=RKLLMInferParam120,
    result=RKLLMResult120,
    result_callback=VoidResultCallback,
    functions={
        **SINCE_120,
        "rkllm_createDefaultParam": (RKLLMParam120, ()),
        "rkllm_init": (c_int, (POINTER(Handle), POINTER(RKLLMParam120), VoidResultCallback)),
        "rkllm_run": (c_int, (Handle, POINTER(RKLLMInput), POINTER(RKLLMInferParam120), c_void_p)),
        "rkllm_run_async": (c_int, (Handle, POINTER(RKLLMInput), POINTER(RKLLMInferParam120), c_void_p)),
    },
)
