"""What may happen to the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from exo_rkllm.backends import base
from exo_rkllm.cluster.serving import Servable
from exo_rkllm.cluster.wire import reading
from exo_rkllm.errors import ExoRkllmError


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The replica holds all that the log had when we came."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The replica has just taken in this event; `fresh` unless more are known to be missing."""

    event: reading.Event
    fresh: bool = True


@dataclass(frozen=True, slots=True)
class Offered:
    models: Mapping[str, Servable]


@dataclass(frozen=True, slots=True)
class Answered:
    task_id: str
    event: base.Event | ExoRkllmError


@dataclass(frozen=True, slots=True)
class Asked:
    command: reading.DownloadCommand


@dataclass(frozen=True, slots=True)
class Invited:
    """Somebody on this board wants withdrawn models offered again."""


@dataclass(frozen=True, slots=True)
class Ticked:
    pass


@dataclass(frozen=True, slots=True)
class Leaving:
    pass


Happening: TypeAlias = CaughtUp | Applied | Offered | Answered | Asked | Invited | Ticked | Leaving
