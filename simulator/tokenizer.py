"""The simulated models' tokenizer: greedy longest match with byte fallback, the same as src/vocabulary.c."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

NORMAL, CONTROL, TEXT_TAG, BYTE = 1, 3, 4, 6  # GGUF's token types

# Never shown as text while skip_special_token is on.
CONTROLS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
    *("<|video_pad|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>", "<|begin_of_text|>", "<|eot_id|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|end|>"),
)
# Tags that belong to the answer's text.
TEXT_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
PUNCTUATION = "!\"#$%&'()*+,-./:;=>?@[\\]^_`{|}~"
BLANKS = ("\n", "\n\n", " ", "  ", "    ", "\t")
ENDINGS = (
    *("s", "es", "ed", "er", "ers", "est", "ing", "ings", "ly", "ness", "ment", "tion", "ation", "able", "ful"),
    *("'s", "n't", "'re", "'ll", "'ve"),
)


@lru_cache(maxsize=1)
def pieces() -> tuple[tuple[bytes, int], ...]:
    """Every piece with its token type; a token's id is its place."""
    found: dict[bytes, int] = {}
    words = (Path(__file__).parent / "words.txt").read_text().split()
    letters = [chr(code) for code in (*range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1))]
    plain = [
        *BLANKS,
        *PUNCTUATION,
        *(" " + sign for sign in PUNCTUATION),
        *"0123456789",
        *(f" {digit}" for digit in "0123456789"),
        *letters,
        *(" " + letter for letter in letters),
        *ENDINGS,
        *(blank + form for word in words for form in (word, word.capitalize()) for blank in (" ", "")),
    ]
    for tag in CONTROLS:
        found[tag.encode()] = CONTROL
    for tag in TEXT_TAGS:
        found[tag.encode()] = TEXT_TAG
    # "<" begins every tag: were it part of a longer piece, the longest match would run into tags.
    for piece in ("<", *plain):
        found.setdefault(piece.encode(), NORMAL)
    return (*((bytes([byte]), BYTE) for byte in range(256)), *found.items())


@lru_cache(maxsize=1)
def ids() -> dict[bytes, int]:
    table = {piece: token for token, (piece, kind) in enumerate(pieces()) if kind == BYTE}
    table.update((piece, token) for token, (piece, kind) in enumerate(pieces()) if kind != BYTE)
    return table


@lru_cache(maxsize=1)
def longest() -> int:
    return max(map(len, ids()))


def token(piece: str) -> int:
    """The id of one piece, such as `<|im_end|>`."""
    return ids()[piece.encode()]


def encode(text: str | bytes, *, control: bool = True) -> list[int]:
    """Token ids of a text; without `control`, tags such as `<|im_start|>` are text like any other."""
    data = text.encode() if isinstance(text, str) else text
    table, kinds = ids(), pieces()
    found: list[int] = []
    at = 0
    while at < len(data):
        size = min(longest(), len(data) - at)
        while (token := table.get(data[at : at + size])) is None or (not control and kinds[token][1] == CONTROL):
            size -= 1
        found.append(token)
        at += size
    return found


def decode_bytes(tokens: Sequence[int]) -> bytes:
    table = pieces()
    return b"".join(table[token][0] for token in tokens)


def decode(tokens: Sequence[int]) -> str:
    """The text of token ids, tags included; bytes that are no UTF-8 become replacement characters."""
    return decode_bytes(tokens).decode(errors="replace")
