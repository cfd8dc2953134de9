"""The head of a .rkllm file, read without the runtime (reference 3.1).

A GGUF v3 derivative: numbers stand in clear, strings are masked with a repeating key that starts over at each string.
The first key of every file is known, which gives the mask's first bytes; keys that can only be one of ours give more.
The outline was published for toolkit 1.3.1 only, so any surprise ends in "unknown", never in a wrong value.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Bytes: TypeAlias = "bytes | memoryview"
Value: TypeAlias = "str | int | float | bool"

HEAD = struct.Struct("<4sIQQ")
FIRST_KEY = b"general.architecture"
VERSION = 3
ALIGNMENT = 32
# Far above any real model: what is beyond them is no count and no length.
MOST_KEYS, MOST_TENSORS, MOST_DIMENSIONS, MOST_ITEMS = 1 << 12, 1 << 16, 8, 1 << 24
LONGEST_KEY, LONGEST_TEXT = 256, 64 << 20

U32, STRING, ARRAY, U64 = 4, 8, 9, 10
ARCHITECTURE = re.compile(r"[a-z0-9_.-]+")
# GGUF value types: how each is packed.
SCALARS: Mapping[int, struct.Struct] = {number: struct.Struct(f"<{code}") for number, code in enumerate("BbHhIif?")} | {
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
# Bytes of an element of the tensor types whose size is not a question of blocks.
ELEMENTS: Mapping[int, int] = {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 28: 8}

# Keys worth reading, {} being the architecture.
KEYS = (
    "general.name",
    "rkllm.version",
    "rkllm.platform",
    "rkllm.core_num",
    "rkllm.max_context",
    "rkllm.model_name",
    "rkllm.has_embedding",
    "rkllm.has_tokenizer",
    "rkllm.chat_template.pre",
    "rkllm.chat_template.post",
    "rkllm.chat_template.system",
    "rkllm.vision.spatial_patch_size",
    "rkllm.vision.spatial_merge_size",
    "tokenizer.huggingface.json",
    "tokenizer.ggml.eos_token_id",
    "{}.vocab_size",
    "{}.context_length",
    "{}.embedding_length",
    "{}.block_count",
    "{}.attention.head_count",
    "{}.attention.head_count_kv",
    "{}.attention.key_length",
)


class CutOff(Exception):
    """The file ends inside something that it began."""


class Surprise(Exception):
    """This is not the outline that we know."""


@dataclass(frozen=True, slots=True)
class Head:
    """Keys by their name in KEYS; `cut_off` where the file is shorter than its head says."""

    values: Mapping[str, Value]
    cut_off: bool = False


class _Reader:
    """Walks the bytes forward."""

    def __init__(self, data: Bytes) -> None:
        self.data = data
        self.at = 0

    def skip(self, size: int) -> int:
        """Where it stood before."""
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise CutOff
        return start

    def scalar(self, kind: int) -> Any:
        packed = SCALARS.get(kind)
        if packed is None:
            raise Surprise
        return packed.unpack_from(self.data, self.skip(packed.size))[0]

    def count(self, kind: int, most: int) -> int:
        number: int = self.scalar(kind)
        if number > most:
            raise Surprise
        return number

    def masked(self, longest: int) -> bytes:
        size = self.count(U64, longest)
        start = self.skip(size)
        return bytes(self.data[start : start + size])

    def skip_texts(self, count: int) -> None:
        """A vocabulary has some 100 000 of them, so this loop is tight."""
        unpack, data, last, at = SCALARS[U64].unpack_from, self.data, len(self.data) - 8, self.at
        for _ in range(count):
            if at > last:
                raise CutOff
            at += 8 + unpack(data, at)[0]
        self.at = at
        self.skip(0)


class _Mask:
    """What is known of the mask's beginning."""

    def __init__(self, masked_first_key: bytes) -> None:
        self._prefix = _xor(masked_first_key, FIRST_KEY)

    def text(self, masked: bytes) -> str | None:
        """None where the mask is not known that far, or gives no text."""
        if len(masked) > len(self._prefix):
            return None
        try:
            text = _xor(masked, self._prefix).decode()
        except UnicodeDecodeError:
            return None
        return text if text.isprintable() else None

    def key(self, masked: bytes, architecture: str) -> str | None:
        """Which of KEYS this is, if only one fits. One that is longer than the known mask lengthens it."""
        beginning = _xor(masked, self._prefix)
        names = {key: key.format(architecture).encode() for key in KEYS}
        fits = [key for key, name in names.items() if len(name) == len(masked) and name[: len(beginning)] == beginning]
        if len(fits) != 1:
            return None
        if len(masked) > len(self._prefix):
            self._prefix = _xor(masked, names[fits[0]])
        return fits[0]


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=False))


def read(data: Bytes) -> Head | None:
    """What the head says; None where it does not have the known outline. Never raises, whatever the bytes are."""
    reader, values = _Reader(data), {}  # type: _Reader, dict[str, Value]
    try:
        tensors = _read_values(reader, values)
    except Surprise:
        return None
    except CutOff:
        return Head(values, cut_off=True) if values else None
    try:
        end = _end_of_tensors(reader, tensors)
    except Surprise:
        return Head(values)
    except CutOff:
        return Head(values, cut_off=True)
    return Head(values, cut_off=end > len(data))


def _read_values(reader: _Reader, values: dict[str, Value]) -> int:
    """Fills `values` and returns how many tensors follow."""
    reader.skip(4)  # the magic: masked, and another one in older toolkits
    if reader.scalar(U32) != VERSION:
        raise Surprise
    tensors, keys = reader.count(U64, MOST_TENSORS), reader.count(U64, MOST_KEYS)
    first = reader.masked(LONGEST_KEY)
    if len(first) != len(FIRST_KEY) or reader.scalar(U32) != STRING:
        raise Surprise
    mask = _Mask(first)
    architecture = mask.text(reader.masked(LONGEST_KEY))
    if architecture is None or not ARCHITECTURE.fullmatch(architecture):
        raise Surprise  # that first key was another one
    values["general.architecture"] = architecture
    for _ in range(keys - 1):
        key = mask.key(reader.masked(LONGEST_KEY), architecture)
        value = _read_value(reader, mask)
        if key is not None and value is not None:
            values[key] = value
    return tensors


def _read_value(reader: _Reader, mask: _Mask) -> Value | None:
    """None for what is not read: arrays, and texts that the mask is not known for."""
    kind = reader.scalar(U32)
    if kind == STRING:
        return mask.text(reader.masked(LONGEST_TEXT))
    if kind != ARRAY:
        value: Value = reader.scalar(kind)
        return value
    item, count = reader.scalar(U32), reader.count(U64, MOST_ITEMS)
    if item == STRING:
        reader.skip_texts(count)
    elif item in SCALARS:
        reader.skip(count * SCALARS[item].size)
    else:
        raise Surprise
    return None


def _end_of_tensors(reader: _Reader, tensors: int) -> int:
    """How long the file must be at least for the tensors of its directory."""
    end = 0
    for _ in range(tensors):
        reader.masked(LONGEST_KEY)
        elements = 1
        for _ in range(reader.count(U32, MOST_DIMENSIONS)):
            elements *= reader.scalar(U64)
        size = elements * ELEMENTS.get(reader.scalar(U32), 0)
        end = max(end, reader.scalar(U64) + size)
    return reader.at + -reader.at % ALIGNMENT + end
