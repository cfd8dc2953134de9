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
class SetRunnerStatus:
    runner_id: str
    status: RunnerStatus


@dataclass(frozen=True, slots=True)
class SetTaskStatus:
    task_id: str
    status: Literal["Running", "Complete", "Failed"]


@dataclass(frozen=True, slots=True)
class SendChunk:
    """A chunk for the one who asked."""

    command_id: str
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class SetDownloadProgress:
    progress: DownloadProgress


@dataclass(frozen=True, slots=True)
class SendCommand:
    command: Command


@dataclass(frozen=True, slots=True)
class BeginTask:
    """Put a task into the board's queue."""

    task: Task
    model: str  # its name in the catalogue


@dataclass(frozen=True, slots=True)
class CancelTask:
    """Stop a task at once; nothing that it has left to say may go out."""

    task_id: str
    command_id: str


@dataclass(frozen=True, slots=True)
class LoadModel:
    model: str


@dataclass(frozen=True, slots=True)
class PublishNodeInfo:
    """Tell the cluster again who we are."""


@dataclass(frozen=True, slots=True)
class LogLineEffect:
    """A line for the operator."""

    level: Literal["info", "warning", "error"]
    sentence: str


WorkerEffect: TypeAlias = (
    SetRunnerStatus
    | SetTaskStatus
    | SendChunk
    | SetDownloadProgress
    | SendCommand
    | BeginTask
    | CancelTask
    | LoadModel
    | PublishNodeInfo
    | LogLineEffect
)
