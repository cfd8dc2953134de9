"""The library's handle to one loaded model: one call at a time, and the library's own reason where one fails."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from exo_rkllm.errors import ExoRkllmError, LoadError, RunError
from exo_rkllm.runtime import failures
from exo_rkllm.runtime.blackbox import LogTail
from exo_rkllm.runtime.library import Library


class Handle:
    """`lock` is held while the library works on this handle: it takes one call at a time (reference 2.8)."""

    def __init__(self, library: Library, context: failures.Context, log: LogTail) -> None:
        self.lock = threading.Lock()
        self._functions = library.functions
        self._context = context
        self._log = log
        self._pointer = ctypes.c_void_p()

    @property
    def open(self) -> bool:
        return bool(self._pointer.value)

    @property
    def model(self) -> str:
        """The file's name, for sentences."""
        return self._context.words(())["model"]

    def init(self, param: Any, callbacks: Any) -> list[str]:
        """Loads the model and returns what the library printed, or raises LoadError or a kin of it."""
        mark = self._log.mark()
        status = self._functions["rkllm_init"](ctypes.byref(self._pointer), ctypes.byref(param), callbacks)
        lines = self._log.since(mark)
        # Older releases said 0 for a model that then aborted the process in its first run (reference 2.1).
        if status != 0 or not self._pointer.value or failures.proves_failure(lines):
            self._pointer.value = None
            raise failures.failure(lines, self._context, f"loading {self.model}", LoadError)
        return lines

    def destroy(self) -> None:
        self.call("rkllm_destroy")
        self._pointer.value = None

    def call(self, function: str, *arguments: Any) -> int:
        """The library's own status; whoever calls holds `lock`, or knows that the function needs none."""
        if not self._pointer.value:
            raise RunError("The session is closed.", "Open another one")
        return self._functions[function](self._pointer, *arguments)

    def do(self, activity: str, function: str, *arguments: Any) -> None:
        """A call that is not a run: alone, and with the reason where it fails."""
        with self.alone(activity):
            mark = self._log.mark()
            if self.call(function, *arguments) != 0:
                raise self.failure(activity, self._log.since(mark))

    def failure(self, activity: str, lines: Sequence[str]) -> ExoRkllmError:
        return failures.failure(lines, self._context, activity, RunError)

    def take(self, activity: str) -> None:
        """`lock`, at once or not at all: a caller that waited would block the thread that listens for its abort."""
        if not self.lock.acquire(blocking=False):
            raise RunError(
                f"The model {self.model} is busy with a run, so {activity} cannot begin.",
                "Wait for its end, or abort it",
            )

    @contextmanager
    def alone(self, activity: str) -> Iterator[None]:
        self.take(activity)
        try:
            yield
        finally:
            self.lock.release()
