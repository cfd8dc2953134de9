"""Lines that a person types: editing and history where Python has readline, and more than one line between \"\"\"."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from exo_rkllm.cli.conversation import open_private
from exo_rkllm.errors import UsageError

PROMPT, MORE = ">>> ", "... "
QUOTES = '"""'
# Entries that are kept; the file is shortened when it has twice as many.
KEPT = 1000


class LineInput:
    """`read` returns what was typed, or raises EOFError or KeyboardInterrupt. The history is a file of JSON strings, a
    line each, since an entry may have several lines."""

    def __init__(self, history: Path, words: Sequence[str] = ()) -> None:
        self.remembers = True
        self._history = history
        self._words = words
        self._readline = _readline()
        if self._readline is not None:
            self._set_up(self._readline)

    def read(self) -> str:
        text = input(PROMPT)
        while text.count(QUOTES) % 2:
            text += "\n" + input(MORE)
        if text.strip():
            self._remember(text)
        return text.strip()

    def _set_up(self, readline: Any) -> None:
        readline.set_auto_history(False)
        entries = list(_entries(self._history))
        for entry in entries[-KEPT:]:
            readline.add_history(entry)
        if len(entries) > 2 * KEPT:
            with contextlib.suppress(UsageError), open_private(self._history, "w") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in entries[-KEPT:])
        readline.set_completer_delims("\n")
        readline.set_completer(self._complete)
        libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")

    def _complete(self, text: str, number: int) -> str | None:
        fitting = [word for word in self._words if text and word.startswith(text)]
        return fitting[number] if number < len(fitting) else None

    def _remember(self, text: str) -> None:
        if self._readline is None or not self.remembers:
            return
        self._readline.add_history(text)
        with contextlib.suppress(UsageError, OSError), open_private(self._history, "a") as file:
            file.write(json.dumps(text) + "\n")


def unquoted(text: str) -> str:
    """Without the quotes around a text of several lines."""
    return text.strip().removeprefix(QUOTES).removesuffix(QUOTES).strip("\n") if QUOTES in text else text


def _readline() -> ModuleType | None:
    try:
        import readline
    except ImportError:
        return None
    return readline


def _entries(path: Path) -> Iterator[str]:
    """A line that cannot be read is left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, str):
                yield entry
