"""1.3.1: as 1.3.0 with audio at the end of the multimodal struct."""

from __future__ import annotations

from ctypes import POINTER, Structure, Union, c_bool, c_char_p, c_int, c_size_t, c_void_p

from exo_rkllm.runtime.abi import common
from exo_rkllm.runtime.abi.v1_3_0 import ADDED as ADDED
from exo_rkllm.runtime.abi.v1_3_0 import Callback as Callback
from exo_rkllm.runtime.abi.v1_3_0 import EmbedCallback as EmbedCallback
from exo_rkllm.runtime.abi.v1_3_0 import ExtendParam as ExtendParam
from exo_rkllm.runtime.abi.v1_3_0 import Image as Image
from exo_rkllm.runtime.abi.v1_3_0 import InferParam as InferParam
from exo_rkllm.runtime.abi.v1_3_0 import Param as Param
from exo_rkllm.runtime.abi.v1_3_0 import Result as Result
from exo_rkllm.runtime.abi.v1_3_0 import ResultCallback as ResultCallback
from exo_rkllm.runtime.abi.v1_3_0 import SamplingParam as SamplingParam
from exo_rkllm.runtime.abi.v1_3_0 import TokenizerCallback as TokenizerCallback
from exo_rkllm.runtime.abi.v1_3_0 import Video as Video


class Audio(Structure):
    _fields_ = (
        ("audio_embed", c_void_p),
        ("n_audio_tokens", c_size_t),
        ("n_audio", c_size_t),
        ("audio_start", c_char_p),
        ("audio_end", c_char_p),
        ("audio_content", c_char_p),
    )


class MultimodalInput(Structure):
    _fields_ = (("prompt", c_char_p), ("image", Image), ("video", Video), ("audio", Audio))


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


CALLBACK_RETURNS = True
SIGNATURES: common.Signatures = {**common.signatures(Param, Input, InferParam, POINTER(Callback)), **ADDED}
