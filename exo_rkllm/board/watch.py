"""The board as the daemon holds it: detected at start, looked at again when udev says that something happened."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from exo_rkllm.board.detect import Board, detect
from exo_rkllm.board.monitor import Change, EventSource
from exo_rkllm.board.sources import Sources, find, refound

log = logging.getLogger(__name__)


class Watch:
    """`on_change` gets the board before and after, only when they differ, on the loop's thread.

    `start` looks once more, since what happened before the event source was made is in nobody's queue.
    """

    def __init__(self, root: Path, on_change: Callable[[Board, Board], None] | None = None) -> None:
        self._root = root
        self._on_change = on_change
        self._source: EventSource | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.board = detect(root)
        self._sources = find(root, self.board)

    @property
    def sources(self) -> Sources:
        self._sources = refound(self._sources, self.board)
        return self._sources

    def start(self, loop: asyncio.AbstractEventLoop, source: EventSource) -> None:
        self._loop, self._source = loop, source
        loop.add_reader(source.fileno(), self._readable)
        self.look()

    def look(self) -> Board:
        """Detect again now; also for whoever stumbles over a path that is gone."""
        board = detect(self._root)
        self._sources = find(self._root, board)
        self._take(board)
        return self.board

    def close(self) -> None:
        if self._loop is not None and self._source is not None:
            self._loop.remove_reader(self._source.fileno())
            self._source.close()
        self._loop = self._source = None

    def _readable(self) -> None:
        changes: list[Change] = self._source.drain() if self._source is not None else []
        for change in changes:
            log.debug("%s", change.sentence)
        if not changes:
            return
        before = self.board
        if self.look() == before and before.npu is not None:
            for change in changes:
                if change.action == "unbind" and change.device in before.npu.devices:
                    self._reloaded(before, change)

    def _reloaded(self, board: Board, change: Change) -> None:
        """The driver is back already, and whoever holds the NPU from before holds nothing."""
        away = replace(board, state="no_driver", sentence=change.sentence, npu=None)
        self._take(away)
        self._take(board)

    def _take(self, board: Board) -> None:
        before, self.board = self.board, board
        if board != before:
            log.info("%s", board.sentence)
            if self._on_change is not None:
                self._on_change(before, board)
