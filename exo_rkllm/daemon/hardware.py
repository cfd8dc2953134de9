"""What a load needs of the machine besides the model: the NPU, the vendor's library, memory, and how they change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import ExitStack, aclosing, suppress
from pathlib import Path

from exo_rkllm.backends.host import language_domain, windows
from exo_rkllm.backends.observer import FINISH_REASONS, AnswerReport, LoadReport, Observer, RestartReport
from exo_rkllm.board import affinity
from exo_rkllm.board.detect import Board
from exo_rkllm.board.kernel_log import KernelLogWatch
from exo_rkllm.board.performance import Performance
from exo_rkllm.board.watch import BoardWatch, Monitor
from exo_rkllm.config import Config
from exo_rkllm.daemon.file_watch import ANY, FileWatch
from exo_rkllm.dispatch.state import DispatchLimits
from exo_rkllm.dispatch.status import DispatchOverview
from exo_rkllm.errors import ClocksError, ExoRkllmError
from exo_rkllm.runtime import locate
from exo_rkllm.runtime.locate import LibraryPlace, Search

log = logging.getLogger(__name__)

KILOBYTE = 1024


class Hardware:
    """The board and the vendor's library as they are now; `on_change` is called when one of them comes or goes."""

    def __init__(self, config: Config, on_change: Callable[[], None]) -> None:
        self.root = Path(config.board.root)
        self.runtimes: Search | None = None  # as of `start`
        self._configured_library = Path(config.runtime.library) if config.runtime.library else None
        self._library_error: ExoRkllmError | None = None
        self._on_change = on_change
        self._search_task: asyncio.Task[None] | None = None
        self._stale = False  # something changed since the latest search began
        self.watch = BoardWatch(self.root, self._board_changed)
        self.kernel_log = KernelLogWatch(self.root, on_change)
        self._closing = ExitStack()

    @property
    def board(self) -> Board:
        return self.watch.board

    @property
    def npu_error(self) -> ExoRkllmError | None:
        """Why nothing can compute on the NPU, whatever library it uses: the board, or what the kernel's log says."""
        log_state, npu = self.kernel_log.state, self.board.npu
        stuck = None if log_state is None or npu is None else log_state.unavailable_reason(npu.device)
        return self.board.unavailable_reason() or stuck

    @property
    def unavailable_reason(self) -> ExoRkllmError | None:
        """The first thing that keeps the vendor library's models from the NPU; the NPU comes before the library."""
        return self.npu_error or self._library_error

    @property
    def library(self) -> LibraryPlace | None:
        """The default one of the vendor's libraries."""
        return None if self.runtimes is None else self.runtimes.found

    def start(self) -> None:
        """Look for the library and follow both. Must run on the loop."""
        log.info("%s", self.board.sentence)
        self._follow_board()
        self.kernel_log.start()
        self._closing.callback(self.kernel_log.close)
        search = locate.search(self._configured_library)
        self._take(search)
        paths = [*(place.path.absolute() for place in search.places), search.folder / ANY]
        with suppress(OSError):
            self._closing.callback(FileWatch(lambda: paths, self._library_changed).close)

    def close(self) -> None:
        self._closing.close()
        if self._search_task is not None:
            self._search_task.cancel()

    def _follow_board(self) -> None:
        """A board below another root is a picture of one, of which the kernel tells nothing."""
        if self.root != Path("/"):
            return
        with suppress(OSError, ImportError):
            self.watch.start(asyncio.get_running_loop(), Monitor())
            self._closing.callback(self.watch.close)

    def _board_changed(self, before: Board, after: Board) -> None:
        if before.npu is None and after.npu is not None:
            self.kernel_log.driver_bound()
        self._on_change()

    def _library_changed(self) -> None:
        self._stale = True
        if self._search_task is None:
            self._search_task = asyncio.create_task(self._search_again())

    async def _search_again(self) -> None:
        """Beside the loop, and only what changed: a library has 8 MB, and there may be several."""
        try:
            while self._stale:
                self._stale = False
                self._take(await asyncio.to_thread(locate.search, self._configured_library, before=self.runtimes))
                self._on_change()
        finally:
            self._search_task = None

    def _take(self, search: Search) -> None:
        told = set() if self.runtimes is None else set(_installed_lines(self.runtimes))
        self.runtimes, error = search, None
        try:
            search.require()
        except ExoRkllmError as caught:
            error = caught
        if error is not None and str(error) != str(self._library_error):
            log.warning("%s", error)
        self._library_error = error
        for line in _installed_lines(search):
            if line not in told:
                log.info("%s", line)


def _installed_lines(search: Search) -> Iterator[str]:
    for place in search.installed:
        default = " (default)" if place is search.found and len(search.installed) > 1 else ""
        yield f"{place.path} is {place.held}{default}."


class NpuWitness:
    """An Observer that passes every report on, and clears a fault of the NPU once a model has worked on it again.

    `on_npu` says of a model's name whether its engine uses the NPU; it is asked only while there is a fault.
    """

    def __init__(self, observer: Observer, on_npu: Callable[[str], bool], kernel_log: KernelLogWatch) -> None:
        self._observer = observer
        self._on_npu = on_npu
        self._kernel_log = kernel_log

    def answered(self, event: AnswerReport) -> None:
        self._observer.answered(event)
        if event.reason in FINISH_REASONS and event.usage.completion:
            self._worked(event.model)

    def loaded(self, event: LoadReport) -> None:
        self._observer.loaded(event)
        if not event.error:
            self._worked(event.model)

    def restarted(self, event: RestartReport) -> None:
        self._observer.restarted(event)

    def _worked(self, model: str) -> None:
        state = self._kernel_log.state
        if state is not None and state.fault is not None and self._on_npu(model):
            self._kernel_log.npu_worked()


def limits(config: Config, board: Board, pinned: frozenset[str]) -> DispatchLimits:
    """What the dispatcher keeps to on this board."""
    return DispatchLimits(
        queue=config.dispatch.queue,
        queue_per_client=config.dispatch.queue_per_client,
        queue_seconds=config.dispatch.queue_timeout,
        lease_seconds=config.dispatch.lease_timeout,
        keep_alive=config.models.keep_alive,
        max_loaded=config.models.max_loaded,
        pinned=pinned,
        reserve=config.models.reserve_memory,
        domains=windows(board),
        lowest_domain=language_domain(board),
        npu_parallel=config.dispatch.npu_parallel,
    )


# ── memory ───────────────────────────────────────────────────────────────────────────────────────


def available_memory(root: Path) -> int:
    """MemAvailable of the machine, or what is left of a container's or a unit's limit where that is less."""
    machine = _meminfo(root / "proc/meminfo").get("MemAvailable", 0) * KILOBYTE
    remaining = _left_of_limit(root)
    return machine if remaining is None else min(machine, remaining)


def total_memory(root: Path) -> int:
    """MemTotal of the machine, or the limit of a container or unit where that is less; 0 where neither is known."""
    try:
        machine = _meminfo(root / "proc/meminfo").get("MemTotal", 0) * KILOBYTE
    except OSError:
        return 0
    limit = _limit(root)
    return machine if limit is None else min(machine, limit)


def _meminfo(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) >= 2 and words[1].isdecimal()}


def _left_of_limit(root: Path) -> int | None:
    """cgroup v2 of this process. File pages count as used there although they are given back under pressure."""
    limit = _limit(root)
    if limit is None:
        return None
    try:
        group = _group(root)
        current = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, limit - current + int(stat.get("inactive_file", 0)))
    except (OSError, IndexError, ValueError):
        return None


def _limit(root: Path) -> int | None:
    """The memory limit of this process's cgroup, None where there is none."""
    try:
        limit = (_group(root) / "memory.max").read_text().strip()
    except (OSError, IndexError):
        return None
    return int(limit) if limit.isdecimal() else None


def _group(root: Path) -> Path:
    """cgroup v2 of this process. Raises OSError or IndexError where there is none."""
    line = (root / "proc/self/cgroup").read_text().splitlines()[-1]
    return root / "sys/fs/cgroup" / line.split("::", 1)[1].lstrip("/")


# ── CPUs ─────────────────────────────────────────────────────────────────────────────────────────


async def keep_off_fast_cores(changes: AsyncGenerator[DispatchOverview, None], slow: frozenset[int]) -> None:
    """Keep our own threads on the slow cores while a model is loaded; its process runs on all that we were given."""
    away = False
    try:
        async with aclosing(changes):
            async for status in changes:
                loaded = any(model.state in ("loading", "ready") for model in status.models)
                if loaded and not away:
                    away = True
                    if chosen := affinity.keep_to(slow):
                        log.info("The daemon keeps to CPU %s while a model is loaded.", _names(chosen))
                elif not loaded and away:
                    away = False
                    affinity.restore()
    finally:
        affinity.restore()


def _names(cpus: Collection[int]) -> str:
    return ", ".join(map(str, sorted(cpus)))


# ── clocks ───────────────────────────────────────────────────────────────────────────────────────


async def raise_clocks(changes: AsyncGenerator[DispatchOverview, None], performance: Performance) -> None:
    """`[board] performance`: hold the privileged unit's connection while a model is loaded, and close it otherwise.

    It never delays a load: what cannot be raised is logged once, and tried again with the next model.
    """
    failed = False
    try:
        async with aclosing(changes):
            async for status in changes:
                if not any(model.state in ("loading", "ready") for model in status.models):
                    await performance.down()
                    failed = False
                elif not performance.connected and not failed:
                    failed = not await _raise(performance)
    finally:
        await performance.down()


async def _raise(performance: Performance) -> bool:
    try:
        outcome = await performance.up()
    except ClocksError as error:
        log.warning("%s", error)
        return False
    if outcome.done:
        log.info("Clocks are up: %s.", ", ".join(outcome.done))
    for sentence in outcome.failed:
        log.warning("%s", sentence)
    return True
