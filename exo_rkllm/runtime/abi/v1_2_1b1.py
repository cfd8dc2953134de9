"""1.2.1b1: as 1.2.0 with a larger multimodal struct."""

from __future__ import annotations

from ctypes import Structure, Union, c_char_p, c_int, c_size_t, c_void_p

from exo_rkllm.runtime.abi import common
from exo_rkllm.runtime.abi.v1_2_0 import ExtendParam as ExtendParam
from exo_rkllm.runtime.abi.v1_2_0 import InferParam as InferParam
from exo_rkllm.runtime.abi.v1_2_0 import Param as Param
from exo_rkllm.runtime.abi.v1_2_0 import Result as Result
from exo_rkllm.runtime.abi.v1_2_0 import ResultCallback as ResultCallback


class MultimodalInput(Structure):
    _fields_ = (
        ("prompt", c_char_p),
        ("image_embed", c_void_p),
        ("n_image_tokens", c_size_t),
        ("n_image", c_size_t),
        ("image_width", c_size_t),
        ("image_height", c_size_t),
    )


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


CALLBACK_RETURNS = False
SIGNATURES: common.Signatures = {
    **common.signatures(Param, Input, InferParam, ResultCallback),
    "rkllm_set_chat_template": (c_int, (c_void_p, c_char_p, c_char_p, c_char_p)),
    "rkllm_clear_kv_cache": (c_int, (c_void_p, c_int)),
}
