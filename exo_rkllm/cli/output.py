"""How every verb prints: colour, wrapped sentences, repairs, tables, sizes and times.

Files, pipes and NO_COLOR get no escape codes.
"""

from __future__ import annotations

import os
import re
import shutil
import textwrap
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from exo_rkllm.errors import ExoRkllmError, UsageError

COLOURS = {"red": 31, "green": 32, "yellow": 33, "grey": 90, "bold": 1, "dim": 2}
CLEAR = "\x1b[H\x1b[2J"
# Files and pipes have no width.
DEFAULT_WIDTH = 100
MINIMUM_WIDTH = 30
# No command of ours continues after one of these and a blank, or starts before such a bracket.
SEAM = re.compile(r"(?<=[;:,.]) (?!\|)| (?=\()")


class Paint:
    def __init__(self, stream: TextIO, environment: Mapping[str, str] = os.environ) -> None:
        self._on = stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"

    def __call__(self, text: str, *styles: str) -> str:
        if not self._on:
            return text
        return "".join(f"\x1b[{COLOURS[style]}m" for style in styles) + text + "\x1b[0m"


def terminal_width(stream: TextIO) -> int:
    return shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns if stream.isatty() else DEFAULT_WIDTH


def wrap(sentence: str, width: int) -> list[str]:
    return textwrap.wrap(sentence, max(width, MINIMUM_WIDTH), break_on_hyphens=False) or [""]


def repair_lines(repair: str, paint: Paint, width: int, indent: str) -> Iterator[str]:
    """`try: ...`, broken only between commands, so that each can be copied."""
    first, *more = _pack(SEAM.split(repair), max(width - len(indent) - len("try: "), MINIMUM_WIDTH))
    yield f"{indent}{paint('try:', 'bold')} {first}"
    yield from (f"{indent}     {line}" for line in more)


def _pack(parts: list[str], width: int) -> Iterator[str]:
    line = parts[0]
    for part in parts[1:]:
        if len(line) + 1 + len(part) <= width:
            line += f" {part}"
        else:
            yield line
            line = part
    yield line


def table(rows: Sequence[Sequence[str]], numbers: Collection[int] = ()) -> list[str]:
    """Lines of equal columns; the columns in `numbers` are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def error_value(error: ExoRkllmError | None) -> dict[str, str] | None:
    """An error as a verb's --json has it."""
    return None if error is None else {"code": error.code, "sentence": error.sentence, "hint": error.hint}


def size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.2f} GB"


def duration(seconds: float) -> str:
    """The two largest units: 45s, 12m 30s, 3h 20m, 2d 4h."""
    whole = max(0, round(seconds))
    for unit, smaller, names in ((86400, 3600, "dh"), (3600, 60, "hm"), (60, 1, "ms")):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit}{names[0]}" + (f" {rest}{names[1]}" if rest else "")
    return f"{whole}s"


def time_since(moment: float) -> str:
    return duration(time.time() - moment)


def time_until(moment: float) -> str:
    return duration(moment - time.time())


def write_report(path: Path, text: str) -> None:
    """What was measured is on the terminal already; raises a UsageError where the file cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.", "Name a file in a folder of yours.") from None
