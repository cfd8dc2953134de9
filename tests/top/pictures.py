"""The pictures in docs/images, taken of the real program in a real terminal: `python -m tests.top.pictures`.

The board's load is made up, anew each second; daemon, terminal and browser are real.
"""

from __future__ import annotations

import asyncio
import html
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

from simulator import boards
from simulator.boards_parts import load_line
from tests.page.browser import browser
from tests.top.terminal import terminal

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "docs/images"
# Columns, lines, pixels of a letter, and seconds until the past beside the bars is full.
SIZES = ((80, 24, 16, 8), (200, 50, 11, 75))
PAGE = """<style>
body {{ margin: 0; background: {background} }}
pre {{ margin: 0; padding: 10px; width: max-content; color: {foreground};
       font: {size}px/1.25 "DejaVu Sans Mono", monospace }}
</style><pre>{lines}</pre>"""


def colour(found: Color | None, *, foreground: bool) -> str:
    return (found or Color.default()).get_truecolor(MONOKAI, foreground=foreground).hex


def css(style: Style) -> str:
    front, back = colour(style.color, foreground=True), colour(style.bgcolor, foreground=False)
    if style.reverse:
        front, back = back, front
    faint = ";opacity:.55" if style.dim else ""
    return f"color:{front};background:{back}{faint}" + (";font-weight:bold" if style.bold else "")


def spans(line: str, console: Console) -> Iterator[str]:
    """A full cell is painted as one, since a browser leaves seams between its glyphs."""
    for segment in Text.from_ansi(line).render(console):
        style = segment.style or Style()
        text = html.escape(segment.text.rstrip("\n"))
        for part, full in split(text):
            behind = f";background:{colour(style.color, foreground=True)}" if full else ""
            yield f'<span style="{css(style)}{behind}">{part}</span>'


def split(text: str) -> Iterator[tuple[str, bool]]:
    bare = text.lstrip("█")
    if full := text[: len(text) - len(bare)]:
        yield full, len(full) > 1
    if bare:
        yield bare, False


def page(screen: list[str], size: int) -> str:
    console = Console(width=400, color_system="truecolor", force_terminal=True)
    lines = "\n".join("".join(spans(line, console)) for line in screen)
    background, foreground = MONOKAI.background_color.hex, MONOKAI.foreground_color.hex
    return PAGE.format(lines=lines, size=size, background=background, foreground=foreground)


def work(root: Path, seconds: float) -> None:
    """A board that decodes: all cores alike, and a pause now and then."""
    load = root / "sys/kernel/debug/rknpu/load"
    load.chmod(0o644)
    for second in range(round(seconds)):
        pause = 0.15 if second % 29 > 24 else 1.0
        percent = [
            round(pause * (68 + 9 * math.sin(second / 2.3 + core) + 6 * math.sin(second * 1.7))) for core in range(3)
        ]
        load.write_bytes(load_line(percent))
        time.sleep(1.0)


async def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    pages = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = boards.write("rk3588-busy", folder / "board")
        socket = folder / "control.sock"
        command = [sys.executable, "-m", "tests.top.daemon", str(socket), "14"]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as daemon:
            assert daemon.stdout is not None
            daemon.stdout.readline()
            environment = {"HOME": name, "EXO_RKLLM_CONTROL_SOCKET": str(socket), "PYTHONPATH": str(REPOSITORY)}
            top = [sys.executable, "-m", "exo_rkllm", "top", "--root", str(root)]
            for width, height, size, seconds in SIZES:
                (folder / str(width)).mkdir()
                with terminal(folder / str(width), width, height, top, environment) as screen:
                    work(root, seconds)
                    pages[f"top-{width}x{height}.png"] = page(screen.screen(colours=True), size)
            daemon.terminate()
        async with browser() as tab:
            for file, text in pages.items():
                await tab.look(400, 300)
                await tab.run(f"document.documentElement.innerHTML = {json.dumps(text)}")
                pre = "document.querySelector('pre')"
                await tab.look(*await tab.run(f"[{pre}.offsetWidth, {pre}.offsetHeight]"))
                await tab.picture(FOLDER / file)


if __name__ == "__main__":
    asyncio.run(main())
