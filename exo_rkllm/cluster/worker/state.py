"""What the worker knows: frozen values, one `Worker` after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from exo_rkllm.cluster.effects import PublishCommandEffect
from exo_rkllm.cluster.serving import Servable
from exo_rkllm.cluster.wire.events import Raw, Tagged, Task
from exo_rkllm.config.table import ErrorForm, Placement

# Commands have no echo of their own: one whose result does not show is given again.
REPEAT = 5.0


@dataclass(frozen=True, slots=True)
class LocalInstance:
    """Our side of one instance: its runner, and the status last published of it."""

    instance_id: str
    runner_id: str
    model_id: str
    status: Tagged | None = None
    refused: bool = False
    problem: str = ""  # why a model that was served is offered no more; its instance goes once its tasks have ended


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """One task in the board's queue. `over` waits for the log to say so too."""

    task: Task
    model_id: str
    phase: Literal["queued", "running", "over"] = "queued"
    thinking_tokens: int = 0
    tool_calls: str = ""
    spoke: bool = False  # a part of its answer was sent


@dataclass(frozen=True, slots=True)
class PendingCommand:
    """A command whose result has not been seen yet; `subject` is the instance to delete, otherwise the model."""

    effect: PublishCommandEffect
    subject: str
    at: float

    @property
    def due(self) -> float:
        """When it is given again."""
        return self.at + REPEAT

    def concerns(self, tag: str, subject: str) -> bool:
        return (self.effect.tag, self.subject) == (tag, subject)


@dataclass(frozen=True, slots=True)
class Worker:
    me: str
    name: str
    placement: Placement = "own"
    models: Mapping[str, Servable] = field(default_factory=dict)  # by the cluster's id of the model
    serving: bool = False
    instances: Mapping[str, LocalInstance] = field(default_factory=dict)  # by id
    tasks: Mapping[str, WorkerTask] = field(default_factory=dict)  # by id
    pending: tuple[PendingCommand, ...] = ()
    announced: frozenset[str] = frozenset()  # models whose files the cluster knows of
    cards: Mapping[str, Raw] = field(default_factory=dict)  # as published in this session
    withdrawn: frozenset[str] = frozenset()  # models whose instance somebody deleted: not offered again unasked
    deleting: frozenset[str] = frozenset()  # instances that we delete ourselves
    errors: ErrorForm = "answer"
    needs_settling: bool = False  # something changed while the replica was known to be behind

    def offered(self) -> Iterator[tuple[str, Servable]]:
        """Models that can answer, by the cluster's id."""
        return ((model_id, model) for model_id, model in self.models.items() if model.state != "failed")

    def busy(self, instance_id: str) -> bool:
        return any(task.task.instance_id == instance_id and task.phase == "running" for task in self.tasks.values())

    def lingers(self, instance_id: str, in_log: Collection[str]) -> bool:
        """Whether the log does not know yet that a task of this instance has ended."""
        return any(one.task.instance_id == instance_id and key in in_log for key, one in self.tasks.items())

    def active_tasks(self, instance_id: str = "") -> Iterator[WorkerTask]:
        """Tasks that the board has in hand, of this instance or of all."""
        for task in self.tasks.values():
            if task.phase != "over" and instance_id in ("", task.task.instance_id):
                yield task
