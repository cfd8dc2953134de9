"""What may happen to the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from exo_rkllm.backends import base
from exo_rkllm.cluster.serving import Servable
from exo_rkllm.cluster.wire.events import DownloadCommand, Event
from exo_rkllm.errors import ExoRkllmError


@dataclass(frozen=True, slots=True)
class CaughtUpEvent:
    """The replica holds all that the log had when we came."""


@dataclass(frozen=True, slots=True)
class AppliedEvent:
    """The replica has just taken in this event; `fresh` unless more are known to be missing."""

    event: Event
    fresh: bool = True


@dataclass(frozen=True, slots=True)
class ModelsChangedEvent:
    models: Mapping[str, Servable]


@dataclass(frozen=True, slots=True)
class AnswerEvent:
    """The board's engine on a task: a piece, progress, its finish or its failure."""

    task_id: str
    event: base.GenerationEvent | ExoRkllmError


@dataclass(frozen=True, slots=True)
class CommandEvent:
    command: DownloadCommand


@dataclass(frozen=True, slots=True)
class JoinedEvent:
    """The operator wants withdrawn models offered again."""


@dataclass(frozen=True, slots=True)
class TickedEvent:
    pass


@dataclass(frozen=True, slots=True)
class LeavingEvent:
    pass


WorkerEvent: TypeAlias = (
    CaughtUpEvent
    | AppliedEvent
    | ModelsChangedEvent
    | AnswerEvent
    | CommandEvent
    | JoinedEvent
    | TickedEvent
    | LeavingEvent
)
