"""One run as the library's callback sees it: what it wants to hear, what it heard, and how it is stopped."""

from __future__ import annotations

import ctypes
import resource
import time
from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import Any, TypeAlias

from exo_rkllm.errors import RunError, UsageError
from exo_rkllm.runtime.abi.shared import CallState, Generation
from exo_rkllm.runtime.features import Features
from exo_rkllm.runtime.memory import FLOAT, view_of
from exo_rkllm.runtime.values import RunStats

# What a callback of ours may answer; None and 0 go on.
PAUSE, RELEASE = 1, 2
# How often a run that has told nothing of its end is asked for.
SILENT_END_SECONDS = 0.1
FINISH, ERROR = int(CallState.FINISH), int(CallState.ERROR)

OnToken: TypeAlias = "Callable[[bytes, int, bool], int | None]"
# Kind of the rows (hidden or logits), how many, their width, and the float32 values: valid during the call only.
OnRows: TypeAlias = "Callable[[str, int, int, memoryview[float]], int | None]"
# An element's (text, token), or None where it has finished; and whether text is held back for a whole character.
OnBatch: TypeAlias = "Callable[[Sequence[tuple[bytes, int] | None], bool], int | None]"
Rare: TypeAlias = "Callable[[int, int], int | None]"

# Kind, block of the result, its pointer, its width.
ROW_BLOCKS = (
    ("hidden", "last_hidden_layer", "hidden_states", "embd_size"),
    ("logits", "logits", "logits", "vocab_size"),
)


class RunCollector:
    """`on_token` is swapped rather than tested: once for the first token, once more to drain what comes after a stop.

    `rare` takes the results whole, where a run wants more of them than one text and one token.
    """

    __slots__ = (
        "_abort", "_features", "_pausable", "_stoppers", "_target",
        "aborted", "began", "drained", "ended", "error", "failed", "first", "heard_end", "on_token", "paused", "perf",
        "rare", "tokens",
    )  # fmt: skip

    def __init__(self, features: Features, abort: Callable[[], None], on_token: OnToken, *, keep_history: bool) -> None:
        self._features = features
        self._abort = abort
        self._target = on_token
        # Only a run without history can be paused (reference 2.9).
        self._pausable = features.has("pause") and not keep_history
        self._stoppers: list[Thread] = []
        self.on_token: OnToken = self._first_token
        self.rare: Rare | None = None
        self.tokens = 0
        self.began = time.monotonic()
        self.first = self.ended = self.drained = 0.0
        self.perf: tuple[float, int, float, int, float] | None = None
        self.error: BaseException | None = None
        self.aborted = self.paused = self.failed = False
        self.heard_end = Event()

    def _first_token(self, *token: Any) -> int | None:
        self.first = time.monotonic()
        if self.on_token == self._first_token:
            self.on_token = self._target
        return self._target(*token)

    # ── what the library says beside tokens ──────────────────────────────────────────────────────

    def state(self, result: Any, state: int) -> int:
        """FINISH, ERROR, or one that no release sends."""
        if state in {FINISH, ERROR}:
            self.ended = time.monotonic()
            self.failed = state == ERROR
            if state == FINISH and result is not None and self._features.has("perf"):
                perf = result.perf
                self.perf = (
                    perf.prefill_time_ms, perf.prefill_tokens, perf.generate_time_ms, perf.generate_tokens,
                    perf.memory_usage_mb,
                )  # fmt: skip
            self.heard_end.set()
        return 0

    def verdict(self, answer: int) -> int:
        """What a callback of ours answered, if the release and the run have that."""
        if answer == PAUSE:
            self._features.require("pause")
            if not self._pausable:
                raise UsageError("A run with keep_history cannot be paused.", "Abort it, or run without keep_history.")
            self.paused = True
            self.heard_end.set()
        elif answer == RELEASE:
            self._features.require("release_output")
        else:
            raise UsageError(f"A callback answered {answer!r}; it can answer None, {PAUSE} and {RELEASE}.")
        return answer

    # ── stopping ─────────────────────────────────────────────────────────────────────────────────

    def note(self, error: BaseException) -> None:
        """The first error is the caller's; what follows from it is not."""
        if self.error is None:
            self.error = error

    def fail(self, error: BaseException) -> int:
        """Inside the callback: this run is over. The answer is for the library."""
        self.note(error)
        self.paused = False
        return self.stop()

    def stop(self) -> int:
        """Inside the callback, where the library must not be called: by pausing, else by an abort on another thread."""
        self.drain()
        if self._pausable:
            self.heard_end.set()
            return PAUSE
        self.stop_elsewhere()
        return 0

    def drain(self) -> None:
        """From now on tokens are dropped."""
        self.drained = self.drained or time.monotonic()
        self._hear_with(self._drop_first)

    def _hear_with(self, drop: Callable[..., None]) -> None:
        self.on_token = drop
        if self.rare is not None:
            self.rare = drop

    def _drop_first(self, *_token: object) -> None:
        """An abort that came before the library had begun is lost. Now it has begun, so it is said once more."""
        self._hear_with(self._drop)
        self.stop_elsewhere()

    @staticmethod
    def _drop(*_token: object) -> None:
        """A release that honours an abort late says much until then."""

    def stop_elsewhere(self) -> None:
        thread = Thread(target=self._abort, name="rkllm-abort", daemon=True)
        self._stoppers.append(thread)
        thread.start()

    def settle(self) -> None:
        """After the run: nobody calls the library on its behalf any more."""
        for thread in self._stoppers:
            thread.join()

    # ── figures ──────────────────────────────────────────────────────────────────────────────────

    def stats(self) -> RunStats:
        ended = self.ended or time.monotonic()
        # What was computed after a stop belongs to no token that was heard.
        late = ended - max(self.drained, self.first or ended) if self.drained else 0.0
        if self.perf is not None and (self.perf[3] or (self.perf[1] and not self.tokens)):
            prefill_ms, prefill_tokens, generate_ms, generate_tokens, memory_mb = self.perf
            generate_ms = max(0.0, generate_ms - late * 1000)
            return RunStats(
                prefill_tokens, prefill_ms, generate_tokens, generate_ms, memory_mb, self.aborted, self.paused
            )
        return RunStats(
            prefill_ms=((self.first or ended) - self.began) * 1000,
            generate_tokens=self.tokens,
            generate_ms=(ended - late - self.first) * 1000 if self.first else None,
            # Kilobytes on Linux; the same VmHWM that the library reports where it does.
            memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            aborted=self.aborted,
            paused=self.paused,
            source="measured",
        )


class AsyncRun:
    """A run on the library's thread. Until `wait` has returned, the session takes nothing else but `abort`."""

    def __init__(self, run: RunCollector, is_running: Callable[[], bool], finish: Callable[[], RunStats]) -> None:
        self._run = run
        self._is_running = is_running
        self._finish: Callable[[], RunStats] | None = finish

    def wait(self, timeout: float | None = None) -> RunStats:
        """What `run` would return or raise; once."""
        if not self._ended(None if timeout is None else time.monotonic() + timeout):
            raise RunError("The run has not ended yet.", "Wait longer, or abort it")
        finish, self._finish = self._finish, None
        if finish is None:
            raise RunError("This run was waited for already.", "Keep what wait returned")
        return finish()

    def _ended(self, until: float | None) -> bool:
        """Some runs end without an event: a prompt that does not fit, and vector runs of 1.2.3 (SEAT, ORK). A run whose
        thread has not begun yet looks the same, so the library is asked twice."""
        idle = 0
        while not self._run.heard_end.is_set() and idle < 2:
            left = SILENT_END_SECONDS if until is None else until - time.monotonic()
            if left <= 0:
                return False
            self._run.heard_end.wait(min(left, SILENT_END_SECONDS))
            idle = 0 if self._is_running() else idle + 1
        return True


# ── results taken whole ──────────────────────────────────────────────────────────────────────────


def rows_of(generation: Generation, on_rows: OnRows, run: RunCollector) -> Rare:
    """Hidden states and logits. A call without rows brings a token, or nothing at all (reference 2.6)."""
    blocks = [block for block in ROW_BLOCKS if hasattr(generation.result, block[1])]

    def take(address: int, state: int) -> int | None:
        result: Any = generation.result.from_address(address)
        text, answer = result.text, None
        if text:
            run.tokens += 1
            answer = run.on_token(text, result.token_id, state == CallState.WAITING)
        for kind, name, pointer, width in blocks:
            block = getattr(result, name)
            count, columns, values = block.num_tokens, getattr(block, width), getattr(block, pointer)
            if count > 0 and columns > 0 and values:
                answer = _show(on_rows, kind, count, columns, values) or answer
        return answer

    return take


def _show(on_rows: OnRows, kind: str, count: int, columns: int, values: Any) -> int | None:
    """The library's own memory, which it frees at its next callback: the view is dead before that."""
    address = ctypes.cast(values, ctypes.c_void_p).value
    with view_of(address, count * columns * FLOAT) as raw, raw.cast("f") as view:
        return on_rows(kind, count, columns, view)


def batch_of(generation: Generation, on_batch: OnBatch, run: RunCollector, size: int) -> Rare:
    """All elements of one step. A negative token marks one that has finished (reference 2.13)."""
    results_at = (generation.result * size).from_address

    def take(address: int, state: int) -> int | None:
        run.first = run.first or time.monotonic()
        run.tokens += 1
        results: Any = results_at(address)
        step = [None if result.token_id < 0 else (result.text or b"", result.token_id) for result in results]
        return on_batch(step, state == CallState.WAITING)

    return take
