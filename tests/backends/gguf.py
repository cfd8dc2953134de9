"""Writes GGUF files (version 3), from the format's public description."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
ALIGNMENT = 32
Tensor = tuple[tuple[int, ...], bytes]  # widths with the fastest first, and float32 values


def write(path: Path, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    for name, value in values.items():
        head += _text(name) + _typed(value)
    data = b""
    for name, (shape, content) in tensors.items():
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += _padded(content)
    path.write_bytes(_padded(head) + data)


def _typed(value: Any) -> bytes:
    if isinstance(value, list):
        # The types of a vocabulary are signed; of llama.cpp, newer ones refuse others.
        kind = I32 if isinstance(value[0], int) else _type(value[0])
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(map(_plain, value))
    return struct.pack("<I", _type(value)) + _plain(value)


def _type(value: Any) -> int:
    return {bool: BOOL, int: U32, float: F32, str: STRING}[type(value)]


def _plain(value: Any) -> bytes:
    if isinstance(value, str):
        return _text(value)
    return struct.pack({bool: "<?", int: "<I", float: "<f"}[type(value)], value)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % ALIGNMENT)
