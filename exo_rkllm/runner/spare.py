"""A model's process that is started before a model is asked for.

It is an ordinary child, which has imported everything and waits for its LOAD, so that a load does not wait for that.
"""

from __future__ import annotations

from contextlib import suppress

from exo_rkllm.errors import LoadError
from exo_rkllm.runner.launch import LANGUAGE_MODEL, ChildProcess, start_child


class SpareChild:
    """Empty until `refill`, and for good after `close`. Used on the main thread, with which its process dies."""

    def __init__(self) -> None:
        self._child: ChildProcess | None = None
        self._closed = False

    def take(self) -> ChildProcess | None:
        """The process, which is the caller's from now on; None where there is none, or where it has died."""
        child, self._child = self._child, None
        if child is not None and child.process.poll() is not None:
            child.discard()
            return None
        return child

    def refill(self) -> None:
        """Starts a process where there is none. The next load finds out what is wrong where none can be started."""
        self._child = self.take()
        if self._child is None and not self._closed:
            with suppress(LoadError):
                self._child = start_child(LANGUAGE_MODEL, "a model")

    def close(self) -> None:
        self._closed = True
        if (child := self.take()) is not None:
            child.discard()
