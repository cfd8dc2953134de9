"""Sentences and repairs in a terminal's width: prose is broken anywhere, a command nowhere, for it is to be copied."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator
from typing import TextIO

from exo_rkllm.cli.paint import Paint

# Files and pipes have no width of their own.
ELSEWHERE = 100
NARROWEST = 30
# No command of ours goes on behind one of these and a blank, or starts before such a bracket.
SEAM = re.compile(r"(?<=[;:,.]) (?!\|)| (?=\()")


def width(stream: TextIO) -> int:
    return shutil.get_terminal_size((ELSEWHERE, 24)).columns if stream.isatty() else ELSEWHERE


def sentence(text: str, columns: int) -> list[str]:
    return textwrap.wrap(text, max(columns, NARROWEST), break_on_hyphens=False) or [""]


def tried(repair: str, paint: Paint, columns: int, indent: str) -> Iterator[str]:
    """A repair as every verb shows it."""
    first, *more = _packed(SEAM.split(repair), max(columns - len(indent) - len("try: "), NARROWEST))
    yield f"{indent}{paint('try:', 'bold')} {first}"
    yield from (f"{indent}     {one}" for one in more)


def _packed(pieces: list[str], columns: int) -> Iterator[str]:
    line = pieces[0]
    for piece in pieces[1:]:
        if len(line) + 1 + len(piece) <= columns:
            line += f" {piece}"
        else:
            yield line
            line = piece
    yield line
