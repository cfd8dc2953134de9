"""What the worker knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from exo_rkllm.cluster.serving import Servable
from exo_rkllm.cluster.wire.messages import ModelCard, RunnerStatus
from exo_rkllm.cluster.wire.reading import Task
from exo_rkllm.cluster.worker.effects import Command
from exo_rkllm.config.table import Placement

# Commands have no echo of their own: one whose result does not show is given again.
REPEAT = 5.0


@dataclass(frozen=True, slots=True)
class LocalInstance:
    """Our side of one instance: its runner, and what was last said of it."""

    instance_id: str
    runner_id: str
    model_id: str
    said: RunnerStatus | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """One task in the board's queue. `over` waits for the log to say so too."""

    task: Task
    model_id: str
    phase: Literal["queued", "running", "over"] = "queued"
    thinking: int = 0
    calls: str = ""


@dataclass(frozen=True, slots=True)
class PendingCommand:
    """A command whose result has not been seen yet."""

    command: Command
    at: float

    @property
    def due(self) -> float:
        """When it is given again."""
        return self.at + REPEAT


@dataclass(frozen=True, slots=True)
class Worker:
    me: str
    name: str
    placement: Placement = "own"
    models: Mapping[str, Servable] = field(default_factory=dict)  # by the cluster's id of the model
    serving: bool = False
    seats: Mapping[str, LocalInstance] = field(default_factory=dict)  # by instance
    jobs: Mapping[str, WorkerTask] = field(default_factory=dict)  # by task
    given: tuple[PendingCommand, ...] = ()
    reported: frozenset[str] = frozenset()  # models whose files the cluster was told of
    carded: Mapping[str, ModelCard] = field(default_factory=dict)  # as this session was told
    withdrawn: frozenset[str] = frozenset()  # models whose instance somebody deleted: not offered again unasked
    deleting: frozenset[str] = frozenset()  # instances that we delete ourselves
    unsettled: bool = False  # something changed while the replica was known to be behind

    def busy(self, instance_id: str) -> bool:
        return any(job.task.instance_id == instance_id and job.phase == "running" for job in self.jobs.values())

    def busy_jobs(self) -> Iterator[WorkerTask]:
        """Tasks that the board has in hand."""
        return (job for job in self.jobs.values() if job.phase != "over")
