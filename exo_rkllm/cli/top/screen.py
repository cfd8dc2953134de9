"""The live view: rich draws on the terminal's second screen, keys come one by one, all is put back at the end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator

from rich.console import Console, Group
from rich.text import Text

from exo_rkllm.cli.top.draw import Line, lines
from exo_rkllm.cli.top.view import HISTORY, ModelOrder, Snapshot, load_of, view

# The driver's line is a second's, so a faster view would repeat itself.
PERIOD = 1.0
STYLES = {
    "": "",
    "title": "bold white on blue",
    "foot": "black on white",
    "head": "bold reverse",
    "bar": "cyan",
    "spark": "cyan",
    "dim": "dim",
    "value": "bold",
    "good": "green",
    "warn": "yellow",
    "bad": "bold red",
}


def run(look: Callable[[], Snapshot]) -> int:
    console = Console()
    order, paused = ModelOrder(), False
    history: deque[tuple[float, ...]] = deque(maxlen=HISTORY)
    before: Snapshot | None = None
    with terminal() as keys, console.screen() as screen, contextlib.suppress(KeyboardInterrupt):
        seen = look()
        history.append(load_of(seen) or ())
        due = time.monotonic() + PERIOD
        while True:
            if not paused and time.monotonic() >= due:
                before, seen = seen, look()
                history.append(load_of(seen) or ())
                due = max(due + PERIOD, time.monotonic())
            now = view(seen, before, history, order)
            size = console.size
            screen.update(Group(*(text(line) for line in lines(now, size.width, size.height, paused=paused))))
            for key in keys(max(due - time.monotonic(), 0.0) if not paused else PERIOD):
                if key in "q\x03\x1b":
                    return 0
                if key == "s":
                    order = order.next()
                elif key == "r":
                    order = order.turned()
                elif key == " ":
                    paused = not paused
    return 0


def text(line: Line) -> Text:
    shown = Text(no_wrap=True, overflow="crop")
    for part, style in line:
        shown.append(part, STYLES[style])
    return shown


@contextlib.contextmanager
def terminal() -> Iterator[Callable[[float], str]]:
    """Yields a function that waits for keys, a resize or the time; without a terminal to type at, for the time only."""
    handle = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    saved = termios.tcgetattr(handle) if handle is not None else None
    waking, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    previous = signal.signal(signal.SIGWINCH, lambda *_: None)
    old_wake = signal.set_wakeup_fd(woken, warn_on_full_buffer=False)

    def keys(seconds: float) -> str:
        watched = [waking] if handle is None else [waking, handle]
        ready, _, _ = select.select(watched, [], [], seconds)
        if waking in ready:
            os.read(waking, 64)
        if handle is None or handle not in ready:
            return ""
        typed = os.read(handle, 64).decode("ascii", "ignore")
        # Arrow and function keys begin with the escape that alone means quit.
        return "" if typed.startswith("\x1b") and len(typed) > 1 else typed

    try:
        if handle is not None:
            tty.setcbreak(handle)
        yield keys
    finally:
        signal.set_wakeup_fd(old_wake)
        signal.signal(signal.SIGWINCH, previous)
        os.close(waking)
        os.close(woken)
        if handle is not None and saved is not None:
            termios.tcsetattr(handle, termios.TCSADRAIN, saved)
