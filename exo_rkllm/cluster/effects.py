"""What membership has its shell do, and what the shell brings back of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from exo_rkllm.cluster.wire.reading import Raw, Task


@dataclass(frozen=True, slots=True)
class SendEffect:
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class BeginTaskEffect:
    task: Task
    model: str


@dataclass(frozen=True, slots=True)
class CancelTaskEffect:
    task_id: str


@dataclass(frozen=True, slots=True)
class LoadModelEffect:
    model: str


@dataclass(frozen=True, slots=True)
class QueryNodesEffect:
    """Ask exo nodes over HTTP what they are, the first of these before the others; `peeked` takes the answer."""

    nodes: tuple[str, ...]
    openapi: bool


@dataclass(frozen=True, slots=True)
class DeclareTokenEffect:
    """Declare our liveliness token."""


@dataclass(frozen=True, slots=True)
class StayOutEffect:
    """Remember this sentence across restarts, until told otherwise."""

    sentence: str


@dataclass(frozen=True, slots=True)
class LogEffect:
    level: Literal["info", "warning", "error"]
    sentence: str


SessionEffect: TypeAlias = (
    SendEffect
    | BeginTaskEffect
    | CancelTaskEffect
    | LoadModelEffect
    | QueryNodesEffect
    | DeclareTokenEffect
    | StayOutEffect
    | LogEffect
)


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What one exo node told over HTTP."""

    node_id: str
    state: Raw
    openapi: Raw | None = None
