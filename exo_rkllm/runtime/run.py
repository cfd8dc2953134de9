"""One run as the library's callback sees it: what it wants to hear, what it heard, and how it is stopped."""

from __future__ import annotations

import ctypes
import resource
import time
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any, Literal, TypeAlias

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
NO_ENDS: frozenset[int] = frozenset()

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
    """`on_token` is swapped rather than tested: once for the first token, once more to drop what comes after the end.

    `ends` and `limit` (0: none) are the end that an answer has of its own, whatever the library makes of it. Two events
    are no token of the answer: the end token, and a last one without text, which is an end token whose id nobody knew.
    `rare` takes the results whole, where a run wants more of them than one text and one token.
    """

    __slots__ = (
        "_abort", "_dropped", "_features", "_pausable", "_resume", "_silent", "_target",
        "aborted", "began", "drained", "end_token", "ended", "ends", "error", "failed", "finish", "first", "heard_end",
        "held", "limit", "on_token", "paused", "perf", "rare", "rows", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        features: Features,
        abort: Callable[[], None],
        on_token: OnToken,
        *,
        keep_history: bool = False,
        ends: frozenset[int] = NO_ENDS,
        limit: int = 0,
    ) -> None:
        self._features = features
        self._abort = abort
        self._target = on_token
        # Only a run without history can be paused (reference 2.9).
        self._pausable = features.has("pause") and not keep_history
        self.on_token: OnToken = self._first_token
        self._resume: OnToken = self._first_token
        self.rare: Rare | None = None
        self.ends = ends
        self.limit = limit
        self.finish: Literal["stop", "length"] | None = None
        self.held: int | None = None
        self.end_token: int | None = None
        # Events with a token, and those among them that nobody got to hear.
        self.tokens = self._dropped = self._silent = 0
        self.rows = 0
        self.began = time.monotonic()
        self.first = self.ended = self.drained = 0.0
        self.perf: tuple[float, int, float, int, float] | None = None
        self.error: BaseException | None = None
        self.aborted = self.paused = self.failed = False
        self.heard_end = Event()

    def _first_token(self, *token: Any) -> int | None:
        self.first = self.first or time.monotonic()
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

    def silent(self, token: int, waiting: bool) -> int | None:  # noqa: FBT001 - the callback's signature
        """A token without text. One that begins a character goes on; any other waits for its successor, since a runtime
        announces its end by an empty event (measured on 1.3.1)."""
        if waiting or self.drained or self.finish:
            return self.on_token(b"", token, waiting)
        self.first = self.first or time.monotonic()
        self._silent += 1
        if self.held is None:
            self._resume, self.on_token = self.on_token, self._after_silent
        answer = self._release()
        self.held = token
        return answer

    def _after_silent(self, *token: Any) -> int | None:
        if self.on_token == self._after_silent:
            self.on_token = self._resume
        answer = self._release()
        return self.on_token(*token) or answer

    def _release(self) -> int | None:
        held, self.held = self.held, None
        return None if held is None else self._target(b"", held, False)

    def settle(self) -> None:
        """After the run: a last token without text is no end where no token has any, for want of a tokenizer."""
        if self._silent == self.tokens and not self.drained:
            self._release()

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

    def over(self, finish: Literal["stop", "length"]) -> int:
        """Inside the callback: the answer is complete. A library that knows it, too, is left to end its run, which
        keeps its KV cache; it is aborted at its next token. One that takes no limit per run is aborted at once."""
        if self.drained or self.finish:
            return 0
        self.finish = "stop" if self.held is not None else finish
        self.ends = NO_ENDS
        if finish == "length" and not self._features.has("max_new_tokens_per_run"):
            return self.stop()
        self._hear_with(self._beyond)
        return 0

    def _beyond(self, *_token: object) -> None:
        """The library has missed the end: 1.3.0 does with end tokens of toolkits 1.2.2 and 1.2.3."""
        self._dropped += 1
        self.stop()

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
        """Inside the callback, by rkllm_abort: it returns at once, one FINISH follows, and the next run is clean
        (measured on 1.3.1). A pause would not do: on 1.3.0 no FINISH follows, and the next run resumes this answer."""
        self.aborted = True
        self.drain()
        self._abort()
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
        self._dropped += 1
        self._hear_with(self._drop)
        self._abort()

    def _drop(self, *_token: object) -> None:
        """A release that honours an abort late says much until then."""
        self._dropped += 1

    # ── figures ──────────────────────────────────────────────────────────────────────────────────

    def stats(self) -> RunStats:
        """Tokens are those that were heard: the library's own count lacks the first (measured on 1.3.1)."""
        ended = self.ended or time.monotonic()
        # What was computed after a stop belongs to no token that was heard.
        late = ended - max(self.drained, self.first or ended) if self.drained else 0.0
        perf = self.perf if self.perf is not None and (self.perf[1] or self.perf[3]) else None
        if perf is not None and perf[3]:
            generate_ms: float | None = max(0.0, perf[2] - late * 1000)
        else:
            generate_ms = (ended - late - self.first) * 1000 if self.first else None
        return RunStats(
            prefill_tokens=perf[1] if perf else self.rows or None,
            prefill_ms=perf[0] if perf else ((self.first or ended) - self.began) * 1000,
            generate_tokens=self.tokens - self._dropped - (self.held is not None),
            generate_ms=generate_ms,
            # Kilobytes on Linux; the same VmHWM that the library reports where it does.
            memory_mb=perf[4] if perf else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            aborted=self.aborted,
            paused=self.paused,
            finish=self.finish,
            end_token=self.held if self.end_token is None and not self.aborted else self.end_token,
            source="runtime" if perf else "measured",
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
                run.rows = count if kind == "hidden" else 0  # of logits, some releases may give the last row only
                answer = _show(on_rows, kind, count, columns, values) or answer
                run.heard_end.set()  # no FINISH follows on 1.2.3
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
