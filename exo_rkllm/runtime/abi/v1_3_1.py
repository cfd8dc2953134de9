"""Runtime 1.3.1: as 1.3.0, but for audio in the multimodal input (reference, G6)."""

from __future__ import annotations

from ctypes import POINTER, Structure, Union, c_bool, c_char_p, c_float, c_int, c_size_t, c_void_p

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


class AudioInput(Structure):
    _fields_ = (
        ("audio_embed", POINTER(c_float)),
        ("n_audio_tokens", c_size_t),
        ("n_audio", c_size_t),
        ("audio_start", c_char_p),
        ("audio_end", c_char_p),
        ("audio_content", c_char_p),
    )


class RKLLMMultiModalInput(Structure):
    _fields_ = (("prompt", c_char_p), ("image", ImageInput), ("video", VideoInput), ("audio", AudioInput))


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
    name="1.3.1",
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
