"""Pulls that go on by themselves: begun, paused, resumed and cancelled by whoever may, and looked at by everybody.

One runs at a time, since they share the network and the disk; the others wait in the order in which they were started.
A paused pull keeps its part on disk, and starting it again goes on from there; a cancelled one leaves nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.errors import Busy, ExoRkllmError, ModelNotFound, PullError

log = logging.getLogger(__name__)

DownloadState: TypeAlias = Literal["waiting", "running", "paused", "failed", "done"]
# Rows that are kept; the oldest that is over makes way.
MOST = 20


@dataclass(frozen=True, slots=True)
class DownloadStatus:
    """`file` is the repository's, empty before it is chosen; `text` is the latest step; `id` the model that it became.

    `error` and `hint` say why it failed.
    """

    target: str
    state: DownloadState
    file: str = ""
    text: str = ""
    done: int = 0
    total: int = 0
    error: str = ""
    hint: str = ""
    id: str = ""


class Downloads:
    """`pull` makes the steps of a target; `discard` takes away what is on disk of a target's file."""

    def __init__(
        self, pull: Callable[[str], AsyncGenerator[PullProgress, None]], discard: Callable[[str, str], None]
    ) -> None:
        self._pull = pull
        self._discard = discard
        self._rows: dict[str, DownloadStatus] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()

    def status(self) -> tuple[DownloadStatus, ...]:
        """In the order in which they were begun."""
        return tuple(self._rows.values())

    def start(self, target: str) -> None:
        """Begins or resumes it as soon as it is its turn; one that waits or runs already goes on."""
        if target in self._tasks:
            return
        steps = self._pull(target)  # raises for what is no target
        if target not in self._rows:
            self._make_way()
        state: DownloadState = "waiting" if self._tasks else "running"
        before = self._rows.get(target, DownloadStatus(target, state))
        self._rows[target] = replace(before, state=state, error="", hint="")
        task = self._tasks[target] = asyncio.create_task(self._run(target, steps))
        task.add_done_callback(lambda _: self._tasks.pop(target))

    async def pause(self, target: str) -> None:
        self._row(target)
        await self._stop(target)
        if (row := self._rows.get(target)) and row.state in ("waiting", "running"):
            self._rows[target] = replace(row, state="paused", text="paused")

    async def cancel(self, target: str) -> None:
        """Also takes a row away that is over."""
        self._row(target)
        await self._stop(target)
        row = self._rows.pop(target, None)
        if row and row.state != "done" and row.file:
            await asyncio.to_thread(self._discard, target, row.file)

    async def close(self) -> None:
        await self._stop(*self._tasks)

    def _row(self, target: str) -> DownloadStatus:
        if target not in self._rows:
            raise ModelNotFound(f"{target[:100]!a} is not being pulled.", "GET /v1/status lists the pulls.")
        return self._rows[target]

    def _make_way(self) -> None:
        if len(self._rows) < MOST:
            return
        over = next((target for target, row in self._rows.items() if row.state in ("done", "failed")), None)
        if over is None:
            raise Busy(f"{MOST} pulls are under way.", "Wait for one of them, or cancel it.")
        del self._rows[over]

    async def _stop(self, *targets: str) -> None:
        tasks = [task for target in targets if (task := self._tasks.get(target))]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, target: str, steps: AsyncGenerator[PullProgress, None]) -> None:
        try:
            async with self._turn, aclosing(steps):
                self._rows[target] = replace(self._rows[target], state="running")
                async for step in steps:
                    self._take(target, step)
        except ExoRkllmError as error:
            self._fail(target, error)
        except Exception as surprise:
            log.exception("A pull broke off.")
            self._fail(target, PullError(f"The pull failed: {type(surprise).__name__}.", "exo-rkllm logs"))

    def _fail(self, target: str, error: ExoRkllmError) -> None:
        self._rows[target] = replace(self._rows[target], state="failed", error=error.sentence, hint=error.hint)

    def _take(self, target: str, step: PullProgress) -> None:
        row = replace(self._rows[target], text=step.text)
        row = replace(row, file=row.file or step.file)  # the first one is the weights'
        if step.total:
            row = replace(row, done=step.done, total=step.total)
        if step.stage == "done":
            row = replace(row, state="done", id=step.id)
        self._rows[target] = row
