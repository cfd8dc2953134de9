"""What the worker wants done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from exo_rkllm.cluster.wire.messages import (
    AddCustomModelCard,
    Chunk,
    CreateInstance,
    DeleteInstance,
    DownloadProgress,
    RunnerStatus,
)
from exo_rkllm.cluster.wire.reading import Task

Command: TypeAlias = AddCustomModelCard | CreateInstance | DeleteInstance


@dataclass(frozen=True, slots=True)
class Runner:
    runner_id: str
    status: RunnerStatus


@dataclass(frozen=True, slots=True)
class Moved:
    task_id: str
    status: Literal["Running", "Complete", "Failed"]


@dataclass(frozen=True, slots=True)
class Say:
    """A chunk for the one who asked."""

    command_id: str
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Report:
    progress: DownloadProgress


@dataclass(frozen=True, slots=True)
class Order:
    command: Command


@dataclass(frozen=True, slots=True)
class Begin:
    """Put a task into the board's queue."""

    task: Task
    model: str  # its name in the catalogue


@dataclass(frozen=True, slots=True)
class Halt:
    """Stop a task at once; nothing that it has left to say may go out."""

    task_id: str
    command_id: str


@dataclass(frozen=True, slots=True)
class Load:
    model: str


@dataclass(frozen=True, slots=True)
class Introduce:
    """Tell the cluster again who we are."""


@dataclass(frozen=True, slots=True)
class Tell:
    """A line for the operator."""

    level: Literal["info", "warning", "error"]
    sentence: str


Effect: TypeAlias = Runner | Moved | Say | Report | Order | Begin | Halt | Load | Introduce | Tell
