"""What this node knows of a cluster and what happens there, as values under exo's own names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

# What a JSON parser returns, and what a message is made of.
Raw: TypeAlias = "Mapping[str, Any]"
# {"RunnerLoading": {"layers_loaded": 3, "total_layers": 28}}
Tagged: TypeAlias = "Mapping[str, Mapping[str, Any]]"


def tag_of(value: Tagged) -> str:
    return next(iter(value))


@dataclass(frozen=True, slots=True)
class SessionId:
    """Identifies one master's term. Events of different sessions must not be mixed."""

    master_node_id: str
    election_clock: int


@dataclass(frozen=True, slots=True)
class Instance:
    id: str
    model_id: str
    runners: tuple[str, ...]
    node_to_runner: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Task:
    """`kind` is exo's name of it; only generation tasks have a command, whose id their chunks carry."""

    id: str
    kind: str
    instance_id: str
    status: str
    command_id: str = ""
    params: Raw = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is known of a node; None is what an event says nothing about."""

    name: str | None = None
    model: str | None = None
    chip: str | None = None
    addresses: tuple[str, ...] | None = None
    backends: tuple[str, ...] | None = None


# ── events ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class InstanceCreated:
    instance: Instance


@dataclass(frozen=True, slots=True)
class InstanceDeleted:
    instance_id: str


@dataclass(frozen=True, slots=True)
class RunnerStatusUpdated:
    """`status` is exo's name of it: RunnerReady, RunnerFailed, ..."""

    runner_id: str
    status: str


@dataclass(frozen=True, slots=True)
class TaskCreated:
    task: Task


@dataclass(frozen=True, slots=True)
class TaskStatusUpdated:
    task_id: str
    status: str


@dataclass(frozen=True, slots=True)
class TaskDeleted:
    task_id: str


@dataclass(frozen=True, slots=True)
class NodeGatheredInfo:
    node_id: str
    facts: NodeFacts


@dataclass(frozen=True, slots=True)
class NodeTimedOut:
    node_id: str


@dataclass(frozen=True, slots=True)
class CustomModelCardAdded:
    model_id: str
    card: Raw


@dataclass(frozen=True, slots=True)
class CustomModelCardDeleted:
    model_id: str


@dataclass(frozen=True, slots=True)
class InputChunkReceived:
    """Base64 text of images comes ahead of its task, in parts (reference 2.7)."""

    command_id: str
    image: int
    part: int
    parts: int
    data: str


@dataclass(frozen=True, slots=True)
class OtherEvent:
    """Changes nothing that this node keeps."""

    kind: str


Event: TypeAlias = (
    InstanceCreated
    | InstanceDeleted
    | RunnerStatusUpdated
    | TaskCreated
    | TaskStatusUpdated
    | TaskDeleted
    | NodeGatheredInfo
    | NodeTimedOut
    | CustomModelCardAdded
    | CustomModelCardDeleted
    | InputChunkReceived
    | OtherEvent
)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One event of the master's log as it arrives, its body still unread."""

    index: int
    origin: str
    session: SessionId
    kind: str
    event_id: str
    body: Raw


@dataclass(frozen=True, slots=True)
class DownloadCommand:
    kind: str
    target: str
    model_id: str
    shard: Raw


@dataclass(frozen=True, slots=True)
class ElectionMessage:
    """One candidate of an election."""

    clock: int
    seniority: int
    commands_seen: int
    proposed_session: SessionId


@dataclass(frozen=True, slots=True)
class ClusterState:
    """`GET /state`, as far as it is needed."""

    applied: int
    instances: tuple[Instance, ...]
    runners: tuple[RunnerStatusUpdated, ...]
    tasks: tuple[Task, ...]
    nodes: Mapping[str, NodeFacts]
    cards: Mapping[str, Raw]
