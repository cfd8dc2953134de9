"""The live view: frames on the terminal's second screen, and keys one by one.

At the end, also after Ctrl-C, the terminal is as it was.
"""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from exo_rkllm.cli.top.changes import Changes
from exo_rkllm.cli.top.draw import Line, actions, lines
from exo_rkllm.cli.top.view import HISTORY, ModelOrder, PastPoint, Snapshot, load_of, neighbour, view

# The driver's load covers one second, so a faster view would only repeat itself.
PERIOD = 1.0
# The daemon makes a point of its history every five seconds.
PAST_PERIOD = 5.0
# SGR codes of a line's styles; NO_COLOR leaves out the colours (30 to 49) and keeps the rest.
STYLES: Mapping[str, tuple[int, ...]] = {
    "": (),
    "title": (1, 37, 44),
    "foot": (30, 47),
    "head": (1, 7),
    "bar": (36,),
    "spark": (36,),
    "dim": (2,),
    "value": (1,),
    "good": (32,),
    "warn": (33,),
    "bad": (1, 31),
}
# Arrow keys as terminals send them, and as single signs.
ARROWS = {"\x1b[A": "↑", "\x1bOA": "↑", "\x1b[B": "↓", "\x1bOB": "↓"}
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"


def run(look: Callable[[], Snapshot], past: Callable[[], tuple[PastPoint, ...]]) -> int:
    """`past` asks the daemon for its last hour, while that is shown."""
    order, paused, selected, changes = ModelOrder(), False, "", Changes()
    asked = 0.0
    history: deque[tuple[float, ...]] = deque(maxlen=HISTORY)
    before: Snapshot | None = None
    with terminal() as keys, second_screen(), contextlib.suppress(KeyboardInterrupt):
        snapshot = look()
        history.append(load_of(snapshot) or ())
        due = time.monotonic() + PERIOD
        while True:
            if not paused and time.monotonic() >= due:
                shown = snapshot.past
                before, snapshot = snapshot, look()
                if shown is not None and time.monotonic() - asked >= PAST_PERIOD:
                    shown, asked = past(), time.monotonic()
                snapshot = replace(snapshot, past=shown)
                history.append(load_of(snapshot) or ())
                due = max(due + PERIOD, time.monotonic())
            now = view(snapshot, before, history, order, selected)
            width, height = os.get_terminal_size(sys.stdout.fileno())
            write(frame(lines(now, width, height, paused=paused, message=changes.message)))
            for key in keys(max(due - time.monotonic(), 0.0) if not paused else PERIOD):
                if key in "q\x03\x1b":
                    return 0
                if key == "s":
                    order = order.next()
                elif key == "r":
                    order = order.reversed()
                elif key == " ":
                    paused = not paused
                elif key == "h":
                    snapshot = replace(snapshot, past=past() if snapshot.past is None else None)
                    asked = time.monotonic()
                elif key in "↑↓":
                    selected = neighbour(now, 1 if key == "↓" else -1)
                    now = view(snapshot, before, history, order, selected)
                elif key in actions(now):
                    changes.ask(*actions(now)[key])
    return 0


def frame(rows: Sequence[Line], environment: Mapping[str, str] = os.environ) -> str:
    """One screen. Each line is cleared before it is written, since clearing behind a full one would take its end."""
    colour = not environment.get("NO_COLOR")
    return "\x1b[H" + "\r\n".join("\x1b[2K" + "".join(with_style(*span, colour=colour) for span in row) for row in rows)


def with_style(text: str, style: str, *, colour: bool) -> str:
    codes = [code for code in STYLES[style] if colour or not 30 <= code < 50]
    return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m" if codes else text


def write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextlib.contextmanager
def second_screen() -> Iterator[None]:
    """Without a cursor and without wrapping, so that a full last line does not scroll."""
    write(ENTER)
    try:
        yield
    finally:
        write(LEAVE)


@contextlib.contextmanager
def terminal() -> Iterator[Callable[[float], str]]:
    """Yields a function that waits for keys, a resize or a time limit; without a keyboard, for the time limit only."""
    handle = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    attributes = termios.tcgetattr(handle) if handle is not None else None
    waking, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    previous_handler = signal.signal(signal.SIGWINCH, lambda *_: None)
    old_wake = signal.set_wakeup_fd(woken, warn_on_full_buffer=False)

    def keys(seconds: float) -> str:
        handles = [waking] if handle is None else [waking, handle]
        ready, _, _ = select.select(handles, [], [], seconds)
        if waking in ready:
            os.read(waking, 64)
        if handle is None or handle not in ready:
            return ""
        text = os.read(handle, 64).decode("ascii", "ignore")
        for sent, sign in ARROWS.items():
            text = text.replace(sent, sign)
        # Function keys start with the escape character, which alone means quit.
        return "" if text.startswith("\x1b") and len(text) > 1 else text

    try:
        if handle is not None:
            tty.setcbreak(handle)
        yield keys
    finally:
        signal.set_wakeup_fd(old_wake)
        signal.signal(signal.SIGWINCH, previous_handler)
        os.close(waking)
        os.close(woken)
        if handle is not None and attributes is not None:
            termios.tcsetattr(handle, termios.TCSADRAIN, attributes)
