"""Runtime 1.2.0: n_keep, CPU mask, keep_history, logits, chat template, clearing the KV cache (reference, G3)."""

from __future__ import annotations

from ctypes import POINTER, c_int, c_void_p

from exo_rkllm.runtime.abi.shared import (
    SINCE_120,
    Generation,
    Handle,
    RKLLMInferParam120,
    RKLLMInput110,
    RKLLMMultiModelInput110,
    RKLLMParam120,
    RKLLMResult120,
    VoidResultCallback,
)

GENERATION = Generation(
    name="1.2.0",
    param=RKLLMParam120,
    multimodal_input=RKLLMMultiModelInput110,
    input=RKLLMInput110,
    infer_param=RKLLMInferParam120,
    result=RKLLMResult120,
    result_callback=VoidResultCallback,
    functions={
        **SINCE_120,
        "rkllm_createDefaultParam": (RKLLMParam120, ()),
        "rkllm_init": (c_int, (POINTER(Handle), POINTER(RKLLMParam120), VoidResultCallback)),
        "rkllm_run": (c_int, (Handle, POINTER(RKLLMInput110), POINTER(RKLLMInferParam120), c_void_p)),
        "rkllm_run_async": (c_int, (Handle, POINTER(RKLLMInput110), POINTER(RKLLMInferParam120), c_void_p)),
    },
)
