"""Runtime 1.3.0: a struct of callbacks, sampling per run, video, tags in the input (reference, G5)."""

from __future__ import annotations

from ctypes import POINTER, Structure, Union, c_bool, c_char_p, c_int, c_void_p

from exo_rkllm.runtime.abi.shared import (
    SINCE_121,
    Generation,
    Handle,
    ImageInput,
    IntResultCallback,
    RKLLMCallback,
    RKLLMEmbedInput,
    RKLLMInferParam130,
    RKLLMParam130,
    RKLLMResult121,
    RKLLMTokenInput,
    VideoInput,
)


class RKLLMMultiModalInput(Structure):
    _fields_ = (("prompt", c_char_p), ("image", ImageInput), ("video", VideoInput))


class InputUnion(Union):
    _fields_ = (
        ("prompt_input", c_char_p),
        ("embed_input", RKLLMEmbedInput),
        ("token_input", RKLLMTokenInput),
        ("multimodal_input", RKLLMMultiModalInput),
    )


class RKLLMInput(Structure):
    _anonymous_ = ("union",)
    _fields_ = (("role", c_char_p), ("enable_thinking", c_bool), ("input_type", c_int), ("union", InputUnion))


GENERATION = Generation(
    name="1.3.0",
    param=RKLLMParam130,
    multimodal_input=RKLLMMultiModalInput,
    input=RKLLMInput,
    infer_param=RKLLMInferParam130,
    result=RKLLMResult121,
    result_callback=IntResultCallback,
    functions={
        **SINCE_121,
        "rkllm_createDefaultParam": (RKLLMParam130, ()),
        "rkllm_init": (c_int, (POINTER(Handle), POINTER(RKLLMParam130), POINTER(RKLLMCallback))),
        "rkllm_run": (c_int, (Handle, POINTER(RKLLMInput), POINTER(RKLLMInferParam130), c_void_p)),
        "rkllm_run_async": (c_int, (Handle, POINTER(RKLLMInput), POINTER(RKLLMInferParam130), c_void_p)),
    },
)
