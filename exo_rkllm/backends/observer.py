"""What dispatch tells whoever counts: one value at the end of a request, of a load, and of a runner's life.

The dispatcher calls the `Observer` it was given; metrics implement it, tests do, and dispatch knows neither.
Every value of a `reason`, `finish_reason` or `result` label stands in a table below.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias

from exo_rkllm.backends.base import FinishReason, Timings, Usage
from exo_rkllm.errors import ExoRkllmError, RunnerLost, codes

RestartReason: TypeAlias = Literal["crash", "hang", "protocol", "unreachable", "reload", "npu_unavailable"]
# Why the engine of a loaded model was lost.
RESTART_REASONS: Mapping[RestartReason, str] = MappingProxyType(
    {
        "crash": "its process ended: a signal, or an exit code",
        "hang": "its process said nothing for longer than its limit, and was killed",
        "protocol": "its process sent what nobody can read, and was killed",
        "unreachable": "the server that serves it does not answer",
        "reload": "it could not be loaded anew, for another sampling",
        "npu_unavailable": "the NPU, its driver or its library went away",
    }
)
FINISH_REASONS: Mapping[FinishReason, str] = MappingProxyType(
    {
        "stop": "the model ended its answer, or wrote one of the stop strings",
        "length": "the answer reached its limit, or the context is full",
        "tool_calls": "the answer calls a tool",
        "abort": "whoever asked left, or the run was aborted",
    }
)
# How a request ends: a Finish's reason, or the code of the error that ended it. A load: "ok", or such a code.
ANSWER_REASONS: Mapping[str, str] = MappingProxyType(
    {str(name): text for name, text in FINISH_REASONS.items()} | codes()
)
# Ends of a request that say nothing against the board: it was answered, or whoever asked was wrong, left or came too
# many at a time.
NOT_OUR_FAULT: frozenset[str] = frozenset(
    {*FINISH_REASONS, "usage", "context_overflow", "not_supported", "model_not_found", "template", "busy", "picture"}
)


def restart_reason(error: ExoRkllmError) -> RestartReason | None:
    """The row for what `Engine.lost` gave; None where the engine was closed by us."""
    if not isinstance(error, RunnerLost):
        return "reload"
    return None if error.cause == "unloaded" else error.cause


# Between one token and the next: 78 tokens/s is the fastest figure of the vendor's table, a stall is seconds long.
GAP_BOUNDS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0)


class TokenGaps:
    """Times between tokens, sorted into buckets as they come, since keeping every one would grow with the answer."""

    __slots__ = ("counts", "last", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(GAP_BOUNDS) + 1)
        self.total = 0.0
        self.last: float | None = None

    def tick(self, now: float) -> None:
        """A token came; `now` is monotonic."""
        if self.last is not None:
            gap = now - self.last
            self.counts[bisect_left(GAP_BOUNDS, gap)] += 1
            self.total += gap
        self.last = now


@dataclass(frozen=True, slots=True)
class AnswerReport:
    """A request has left, whichever way; `reason` is a key of ANSWER_REASONS."""

    model: str
    reason: str
    seconds: float  # from being asked to the end
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    first_token: float | None = None  # seconds from being asked; None where no token came
    gaps: TokenGaps | None = None


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A load has ended; `error` is the code of what went wrong (a key of ANSWER_REASONS), empty where nothing did."""

    model: str
    seconds: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class RestartReport:
    """A loaded model's engine was lost; the next request loads it again."""

    model: str
    reason: RestartReason


class Observer(Protocol):
    """Called on the event loop, after the fact, and expected to return at once."""

    def answered(self, event: AnswerReport) -> None: ...

    def loaded(self, event: LoadReport) -> None: ...

    def restarted(self, event: RestartReport) -> None: ...


class NullObserver:
    """For whoever does not count."""

    def answered(self, event: AnswerReport) -> None:
        pass

    def loaded(self, event: LoadReport) -> None:
        pass

    def restarted(self, event: RestartReport) -> None:
        pass
