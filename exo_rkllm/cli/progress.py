"""The progress of a pull or an import: one line that is updated on a terminal, a line per tenth elsewhere."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from typing import TextIO

from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.cli.output import size

VERBS = {"downloading": "pulling", "verifying": "checking", "writing": "writing"}
FULL, EMPTY = "█", "·"
EVERY_SECONDS = 0.1
LINES_WITHOUT_TERMINAL = 10


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def line(step: PullProgress, rate: float, width: int) -> str:
    """`pulling model.rkllm  ████····  45 %  0.76/1.69 GB  11 MB/s  1:23`, as much as fits."""
    share = min(step.done / step.total, 1.0) if step.total else 0.0
    remaining = clock((step.total - step.done) / rate) if rate and step.total > step.done else ""
    figures = f"{share:4.0%}  {size(step.done)} of {size(step.total)}" if step.total else size(step.done)
    tail = "  ".join(part for part in (figures, f"{size(rate)}/s" if rate else "", remaining) if part)
    verb = VERBS.get(step.stage, step.stage)
    bar = 20 if width >= 100 else 10 if width >= 70 else 0
    room = width - len(verb) - len(tail) - (bar + 2 if bar else 0) - 4
    name = step.text if len(step.text) <= room else "…" + step.text[-max(room - 1, 0) :] if room > 8 else ""
    return "  ".join(part for part in (f"{verb} {name}".rstrip(), blocks(share, bar), tail) if part)


def blocks(share: float, length: int) -> str:
    """A bar of so many characters."""
    full = round(share * length)
    return FULL * full + EMPTY * (length - full)


class Display:
    """Shows each step. The rate covers what this run has downloaded, not what an earlier one left."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._moving = out.isatty()
        self._last_update = 0.0
        self._starts: dict[tuple[str, str], tuple[float, int]] = {}
        self._tenth = (-1, "", "")
        self._on_line = False

    def show(self, step: PullProgress) -> None:
        now = time.monotonic()
        if step.stage in ("note", "resolving", "done") or not step.total:
            self.clear()
            print(step.text, file=self._out, flush=True)
            return
        start, done = self._starts.setdefault((step.stage, step.text), (now, step.done))
        rate = (step.done - done) / (now - start) if now > start else 0.0
        if self._moving:
            if now - self._last_update >= EVERY_SECONDS or step.done == step.total:
                self._last_update, self._on_line = now, True
                width = shutil.get_terminal_size().columns - 1
                print(f"\r{line(step, rate, width)[:width]:<{width}}", end="", file=self._out, flush=True)
            return
        tenth = (step.done * LINES_WITHOUT_TERMINAL // step.total, step.stage, step.text)
        if tenth != self._tenth:
            self._tenth = tenth
            print(line(step, rate, 100), file=self._out, flush=True)

    def clear(self) -> None:
        if self._on_line:
            print(file=self._out)
            self._on_line = False


@contextmanager
def shown(*, as_json: bool) -> Iterator[Callable[[PullProgress], None]]:
    """A function that shows a step."""
    display = Display(sys.stderr)

    def print_json(step: PullProgress) -> None:
        print(json.dumps(asdict(step), ensure_ascii=False), flush=True)

    try:
        yield print_json if as_json else display.show
    finally:
        display.clear()


async def follow(steps: AsyncGenerator[PullProgress, None], *, as_json: bool) -> None:
    with shown(as_json=as_json) as show:
        async with aclosing(steps):
            async for step in steps:
                show(step)
