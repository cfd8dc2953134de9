"""What membership has its shell do, and what the shell brings back of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from exo_rkllm.cluster.wire.reading import Raw, Task


@dataclass(frozen=True, slots=True)
class Send:
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Begin:
    task: Task
    model: str


@dataclass(frozen=True, slots=True)
class Halt:
    task_id: str


@dataclass(frozen=True, slots=True)
class Load:
    model: str


@dataclass(frozen=True, slots=True)
class Peek:
    """Ask exo nodes over HTTP what they are, the first of these before the others; `peeked` takes the answer."""

    nodes: tuple[str, ...]
    openapi: bool


@dataclass(frozen=True, slots=True)
class Token:
    """Declare our liveliness token."""


@dataclass(frozen=True, slots=True)
class StayOut:
    """Remember this sentence across restarts, until told otherwise."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Say:
    level: Literal["info", "warning", "error"]
    sentence: str


Effect: TypeAlias = Send | Begin | Halt | Load | Peek | Token | StayOut | Say


@dataclass(frozen=True, slots=True)
class Peeked:
    """What one exo node told over HTTP."""

    node_id: str
    state: Raw
    openapi: Raw | None = None
