"""What a model's file name, or the folder that it lies in, tells: conventions, not facts (reference 3.3)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exo_rkllm import socs


def _soc(text: str) -> str:
    return socs.family_of(text).upper()


def _kilo(text: str) -> int:
    """16384, 16k."""
    return int(text[:-1]) * 1024 if text[-1] in "kK" else int(text)


# Fact, pattern with the fact in its first group, and how that is read.
TOKENS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("platform", rf"(?<![a-z0-9])({socs.IN_NAMES})(?![a-z0-9])", _soc),
    ("dtype", rf"(?<![a-z0-9])({'|'.join(socs.QUANTIZATIONS)})(?![a-z0-9])", str.upper),
    ("optimization", r"(?<![a-z0-9])opt-?([01])(?!\d)", int),
    ("hybrid_ratio", r"hybrid-?ratio-?([01](?:\.\d+)?)", float),
    ("max_context", r"(?<![a-z0-9])ctx-?(\d+k?)(?![a-z0-9])", _kilo),
    ("max_context", r"(?<![a-z0-9.])(\d{1,3}k)(?![a-z0-9])", _kilo),
    ("toolkit", r"(?:[-_. ]v?|rkllm-?v?)(\d+\.\d+\.\d+(?:b\d+)?)(?![\d])", str),
    # Not the 8B of 1_8B.
    ("parameters", r"(?<![a-z0-9.])(?<!\d_)(e?\d+(?:\.\d+)?[bm])(?![a-z0-9])", str.upper),
    ("lora", r"(_lora)$", bool),
)


def facts(path: Path) -> Mapping[str, Any]:
    """By name; the file's own name counts before its folder's."""
    found: dict[str, Any] = {}
    for text in (path.stem, path.absolute().parent.name):
        for name, pattern, read in TOKENS:
            match = re.search(pattern, text, re.IGNORECASE)
            if match is not None and name not in found:
                found[name] = read(match[1])
    return found
