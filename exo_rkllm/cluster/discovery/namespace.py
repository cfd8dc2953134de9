"""Names of exo clusters: a namespace string travels as the first eight bytes of its BLAKE3 hash."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_COLUMNS_THEN_DIAGONALS = (
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
)
_MASK = 0xFFFFFFFF
_CHUNK_START, _CHUNK_END, _ROOT = 1, 2, 8
_BLOCK, _CHUNK = 64, 1024


def _rotated(value: int, bits: int) -> int:
    return ((value >> bits) | (value << (32 - bits))) & _MASK


def _compressed(chaining: Sequence[int], words: Sequence[int], length: int, flags: int) -> list[int]:
    v = [*chaining, *_IV[:4], 0, 0, length, flags]
    message = list(words)
    for _ in range(7):
        for step, (a, b, c, d) in enumerate(_COLUMNS_THEN_DIAGONALS):
            for word, first, second in ((message[2 * step], 16, 12), (message[2 * step + 1], 8, 7)):
                v[a] = (v[a] + v[b] + word) & _MASK
                v[d] = _rotated(v[d] ^ v[a], first)
                v[c] = (v[c] + v[d]) & _MASK
                v[b] = _rotated(v[b] ^ v[c], second)
        message = [message[index] for index in _PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)]


def blake3(data: bytes) -> bytes:
    """BLAKE3 of at most one chunk (1024 bytes): a namespace is a short string, and no dependency is needed for it."""
    if len(data) > _CHUNK:
        raise ValueError(f"a namespace has at most {_CHUNK} bytes, not {len(data)}")
    blocks = [data[start : start + _BLOCK] for start in range(0, len(data), _BLOCK)] or [b""]
    chaining: Sequence[int] = _IV
    for number, block in enumerate(blocks):
        first = _CHUNK_START if number == 0 else 0
        last = _CHUNK_END | _ROOT if number == len(blocks) - 1 else 0
        words = struct.unpack("<16I", block.ljust(_BLOCK, b"\0"))
        chaining = _compressed(chaining, words, len(block), first | last)
    return struct.pack("<8I", *chaining)


def digest(namespace: str) -> bytes:
    return blake3(namespace.encode())[:8]


def namespace_of(hashed: bytes, names: Sequence[str]) -> str | None:
    """The one of `names` whose hash this is, None if there is none."""
    return next((name for name in names if digest(name) == hashed), None)
