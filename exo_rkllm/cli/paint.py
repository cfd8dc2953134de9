"""Colour for terminals, and none for files, pipes and whoever asked for none (NO_COLOR)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO

COLOURS = {"red": 31, "green": 32, "yellow": 33, "grey": 90, "bold": 1}


class Paint:
    def __init__(self, stream: TextIO, environment: Mapping[str, str] = os.environ) -> None:
        self._on = stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"

    def __call__(self, text: str, *styles: str) -> str:
        if not self._on:
            return text
        return "".join(f"\x1b[{COLOURS[style]}m" for style in styles) + text + "\x1b[0m"
