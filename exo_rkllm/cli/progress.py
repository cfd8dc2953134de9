"""What a pull or an import is at, on a terminal as one line that moves, elsewhere as lines worth keeping."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import TextIO

from exo_rkllm.catalogue.progress import PullProgress

WORDS = {"downloading": "fetching", "verifying": "checking", "writing": "writing"}
FULL, EMPTY = "█", "·"
EVERY_SECONDS = 0.1
QUIET_SHARE = 10  # a line for each tenth, where nobody watches


def amount(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def line(step: PullProgress, rate: float, width: int) -> str:
    """`fetching model.rkllm  ████····  45 %  0.76/1.69 GB  11 MB/s  1:23`, as much of it as fits."""
    share = min(step.done / step.total, 1.0) if step.total else 0.0
    left = duration((step.total - step.done) / rate) if rate and step.total > step.done else ""
    figures = f"{share:4.0%}  {amount(step.done)} of {amount(step.total)}" if step.total else amount(step.done)
    tail = "  ".join(part for part in (figures, f"{amount(rate)}/s" if rate else "", left) if part)
    verb = WORDS.get(step.stage, step.stage)
    bar = 20 if width >= 100 else 10 if width >= 70 else 0
    room = width - len(verb) - len(tail) - (bar + 2 if bar else 0) - 4
    name = step.text if len(step.text) <= room else "…" + step.text[-max(room - 1, 0) :] if room > 8 else ""
    filled = round(share * bar)
    return "  ".join(part for part in (f"{verb} {name}".rstrip(), FULL * filled + EMPTY * (bar - filled), tail) if part)


class Display:
    """Shows steps to people; the rate is over what this run fetched."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._moving = out.isatty()
        self._shown = 0.0
        self._began: dict[str, tuple[float, int]] = {}
        self._tenth = (-1, "")
        self._on_line = False

    def show(self, step: PullProgress) -> None:
        now = time.monotonic()
        if step.stage in ("note", "resolving", "done") or not step.total:
            self.clear()
            print(step.text, file=self._out, flush=True)
            return
        began, had = self._began.setdefault(step.stage, (now, step.done))
        rate = (step.done - had) / (now - began) if now > began else 0.0
        if self._moving:
            if now - self._shown >= EVERY_SECONDS or step.done == step.total:
                self._shown, self._on_line = now, True
                width = shutil.get_terminal_size().columns - 1
                print(f"\r{line(step, rate, width)[:width]:<{width}}", end="", file=self._out, flush=True)
            return
        tenth = (step.done * QUIET_SHARE // step.total, step.stage)
        if tenth != self._tenth:
            self._tenth = tenth
            print(line(step, rate, 100), file=self._out, flush=True)

    def clear(self) -> None:
        if self._on_line:
            print(file=self._out)
            self._on_line = False


async def follow(steps: AsyncGenerator[PullProgress, None], *, as_json: bool) -> None:
    """Wherever the steps come from: the catalogue in this process, or the daemon's."""
    display = Display(sys.stderr)
    try:
        async with aclosing(steps):
            async for step in steps:
                if as_json:
                    print(json.dumps(asdict(step), ensure_ascii=False), flush=True)
                else:
                    display.show(step)
    finally:
        display.clear()
