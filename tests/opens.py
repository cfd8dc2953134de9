"""Paths that this process opens, from the interpreter's own audit events."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


class Opens:
    """`with opens.traced() as paths:`. Hooks cannot be taken out again, so this one is deaf outside of that."""

    def __init__(self) -> None:
        self._paths: list[str] | None = None
        sys.addaudithook(self._hook)

    @contextlib.contextmanager
    def traced(self) -> Iterator[list[str]]:
        paths = self._paths = []
        try:
            yield paths
        finally:
            self._paths = None

    def _hook(self, event: str, args: tuple[object, ...]) -> None:
        if self._paths is not None and event == "open":
            self._paths.append(str(args[0]))
