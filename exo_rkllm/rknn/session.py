"""One loaded encoder: pixels in, float32 rows out. Everything blocks, and is called on one thread."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

from exo_rkllm.errors import ModelFileError, RunError, UsageError
from exo_rkllm.rknn import abi
from exo_rkllm.rknn.failures import LOG_HINT, failure
from exo_rkllm.rknn.library import EncoderLibrary
from exo_rkllm.rknn.values import EncoderParams, EncoderShape

FLOAT = ctypes.sizeof(ctypes.c_float)


class EncoderSession:
    """Made by `open`. Closing it frees the encoder."""

    def __init__(self, library: EncoderLibrary, params: EncoderParams) -> None:
        self.library = library
        self._file = params.model_path
        self._context = ctypes.c_uint64()
        self._open = False

    @classmethod
    def open(cls, library: EncoderLibrary, params: EncoderParams) -> EncoderSession:
        """Load the encoder, or raise the sentence that says why not."""
        session = cls(library, params)
        path = ctypes.c_char_p(os.fsencode(params.model_path))
        # A size of 0 says that the pointer is a path, so that the library maps the file itself.
        session._check(
            library.functions["rknn_init"](ctypes.byref(session._context), path, 0, 0, None), "loading the encoder"
        )
        session._open = True
        try:
            if params.core_mask:
                session._call("rknn_set_core_mask", "choosing its NPU cores", params.core_mask)
            session.shape = session._shape()
        except BaseException:
            session.close()
            raise
        return session

    shape: EncoderShape

    # ── what it is ───────────────────────────────────────────────────────────────────────────────

    def driver(self) -> str:
        """The version of the kernel's driver, as the library says it."""
        sdk = abi.SdkVersion()
        self._query(abi.QUERY_SDK_VERSION, sdk, "asking for its version")
        text: bytes = sdk.drv_version
        return text.decode(errors="replace")

    def _shape(self) -> EncoderShape:
        number = abi.InputOutputNumber()
        self._query(abi.QUERY_IN_OUT_NUM, number, "counting its inputs")
        if number.n_input != 1 or number.n_output < 1:
            raise ModelFileError(
                f"{self._file} is no encoder of pictures: {number.n_input} inputs and {number.n_output} outputs.",
                "Take the vision encoder that belongs to the language model",
            )
        source = self._attribute(abi.QUERY_INPUT_ATTR, 0)
        outputs = [_output_size(self._attribute(abi.QUERY_OUTPUT_ATTR, index)) for index in range(number.n_output)]
        dims = list(source.dims[: source.n_dims])
        height, width, channels = dims[2], dims[3], dims[1]
        if source.fmt == abi.NHWC:
            height, width, channels = dims[1], dims[2], dims[3]
        if len(dims) != 4 or channels != 3 or len(set(outputs)) != 1:
            raise ModelFileError(
                f"{self._file} is no encoder of pictures: its input is {dims}, and its outputs are {outputs}.",
                "Take the vision encoder that belongs to the language model",
            )
        tokens, output_width = outputs[0]
        return EncoderShape(height, width, tokens, output_width, len(outputs))

    def _attribute(self, kind: int, index: int) -> abi.TensorAttribute:
        attribute = abi.TensorAttribute(index=index)
        self._query(kind, attribute, "asking for its shape")
        return attribute

    def _query(self, kind: int, place: ctypes.Structure, activity: str) -> None:
        self._call("rknn_query", activity, kind, ctypes.byref(place), ctypes.sizeof(place))

    # ── running ──────────────────────────────────────────────────────────────────────────────────

    def encode(self, pixels: Any, rows: Any) -> None:
        """Fills `rows`, a writable buffer of `shape.tokens` times `shape.row_width` floats, from the RGB bytes.

        Both are buffers that ctypes can point to, such as an mmap.
        """
        shape = self.shape
        if len(pixels) != shape.pixels or len(rows) != shape.tokens * shape.row_width * FLOAT:
            raise UsageError(
                f"A picture of {len(pixels)} bytes was given to an encoder of {shape.width} x {shape.height} pixels."
            )
        source = (ctypes.c_uint8 * len(pixels)).from_buffer(pixels)
        tensor = abi.InputTensor(0, ctypes.addressof(source), len(pixels), 0, abi.UINT8, abi.NHWC)
        self._call("rknn_inputs_set", "taking the picture", 1, ctypes.byref(tensor))
        self._call("rknn_run", "encoding the picture", None)
        target = (ctypes.c_uint8 * len(rows)).from_buffer(rows)
        if shape.outputs == 1:
            self._take([target])
            return
        size = shape.tokens * shape.output_width * FLOAT
        parts = [(ctypes.c_uint8 * size)() for _ in range(shape.outputs)]
        self._take(parts)
        interleave(parts, memoryview(target).cast("B"), shape.output_width * FLOAT)

    def _take(self, buffers: Sequence[ctypes.Array[ctypes.c_uint8]]) -> None:
        """The outputs as floats, written by the library straight into the buffers."""
        count = len(buffers)
        tensors = (abi.OutputTensor * count)(
            *(
                abi.OutputTensor(1, 1, index, ctypes.addressof(buffer), len(buffer))
                for index, buffer in enumerate(buffers)
            )
        )
        self._call("rknn_outputs_get", "handing over its outputs", count, tensors, None)
        self._call("rknn_outputs_release", "handing over its outputs", count, tensors)

    # ── the library ──────────────────────────────────────────────────────────────────────────────

    def _call(self, function: str, activity: str, *arguments: Any) -> None:
        if not self._open:
            raise RunError("The encoder is closed.", "Open another one")
        self._check(self.library.functions[function](self._context, *arguments), activity)

    def _check(self, status: int, activity: str) -> None:
        if status < 0:
            raise failure(status, activity, self._file)

    def close(self) -> None:
        if self._open:
            self._open = False
            self.library.functions["rknn_destroy"](self._context)


def _output_size(attribute: abi.TensorAttribute) -> tuple[int, int]:
    """Tokens and width: the first dimension above 1, and the one behind it."""
    dims = list(attribute.dims[: attribute.n_dims])
    at = next((index for index, size in enumerate(dims) if size > 1), len(dims))
    tokens, width = (*dims[at : at + 2], 1, 1)[:2]
    if tokens * width != attribute.n_elems:
        raise ModelFileError(f"An output of the encoder is {dims}, which is not one row of floats a token.", LOG_HINT)
    return tokens, width


def interleave(parts: Sequence[Any], rows: memoryview, width: int) -> None:
    """All parts' bytes for the first token one after the other, then those for the second, and so on.

    `width` is a token's bytes in one part. Encoders with several outputs (Qwen3-VL) feed the language model so.
    """
    row = width * len(parts)
    for index, part in enumerate(parts):
        view = memoryview(part).cast("B")
        for token in range(len(view) // width):
            at = token * row + index * width
            rows[at : at + width] = view[token * width : (token + 1) * width]
