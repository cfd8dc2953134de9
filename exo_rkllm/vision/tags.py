"""The texts that stand around and for the tokens of an image, by family (rknn-vision 1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple


class ImageTags(NamedTuple):
    start: str
    end: str
    content: str


TAGS: Mapping[str, ImageTags] = {
    "qwen": ImageTags("<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
    "internvl": ImageTags("<img>", "</img>", "<IMG_CONTEXT>"),
    "gemma": ImageTags("<|image>", "<image|>", "<|image|>"),
    "deepseek-ocr": ImageTags("", "", "<｜▁pad▁｜>"),
    "minicpm": ImageTags("<image>", "</image>", "<unk>"),
}
# The first row whose pattern a model's name holds; InternVL's own language models are Qwen's.
PATTERNS: tuple[tuple[str, str], ...] = (
    (r"internvl", "internvl"),
    (r"deepseek.?ocr", "deepseek-ocr"),
    (r"minicpm", "minicpm"),
    (r"gemma", "gemma"),
    (r"qwen", "qwen"),
)


def tags_for(*names: str) -> str:
    """The row that the names of a model mean, most telling first; empty where none does."""
    for name in names:
        for pattern, row in PATTERNS:
            if re.search(pattern, name, re.IGNORECASE):
                return row
    return ""
