"""What the cluster node does next: decided by the worker and by `Membership`, carried out on the way out.

`Membership` turns what is published into `SendEffect`s; everything else reaches the shell (`node.py`) as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from exo_rkllm.cluster.wire.events import Raw, Tagged, Task


@dataclass(frozen=True, slots=True)
class PublishEventEffect:
    """Bring an event into the master's log; its id is added where it is numbered."""

    tag: str
    fields: Raw


@dataclass(frozen=True, slots=True)
class PublishCommandEffect:
    """Give the master a command; its id is added."""

    tag: str
    fields: Raw


@dataclass(frozen=True, slots=True)
class PublishNodeInfoEffect:
    """Tell the cluster again who we are."""


@dataclass(frozen=True, slots=True)
class SendEffect:
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class BeginTaskEffect:
    """Put a task into the board's queue."""

    task: Task
    model: str  # its name in the catalogue


@dataclass(frozen=True, slots=True)
class CancelTaskEffect:
    """Stop a task at once; chunks of this command that still wait are dropped."""

    task_id: str
    command_id: str


@dataclass(frozen=True, slots=True)
class LoadModelEffect:
    model: str


@dataclass(frozen=True, slots=True)
class QueryNodesEffect:
    """Ask exo nodes over HTTP what they are, in this order; `Membership.node_answered` takes the answer."""

    nodes: tuple[str, ...]
    openapi: bool


@dataclass(frozen=True, slots=True)
class DeclareTokenEffect:
    """Declare our liveliness token."""


@dataclass(frozen=True, slots=True)
class StayOutEffect:
    """Remember this sentence across restarts; an empty one takes it back."""

    sentence: str


@dataclass(frozen=True, slots=True)
class LogEffect:
    """A line for the operator."""

    level: Literal["info", "warning", "error"]
    sentence: str


ClusterEffect: TypeAlias = (
    PublishEventEffect
    | PublishCommandEffect
    | PublishNodeInfoEffect
    | SendEffect
    | BeginTaskEffect
    | CancelTaskEffect
    | LoadModelEffect
    | QueryNodesEffect
    | DeclareTokenEffect
    | StayOutEffect
    | LogEffect
)


def runner_status(runner_id: str, status: Tagged) -> PublishEventEffect:
    return PublishEventEffect("RunnerStatusUpdated", {"runner_id": runner_id, "runner_status": status})


def task_status(task_id: str, status: Literal["Running", "Complete", "Failed"]) -> PublishEventEffect:
    return PublishEventEffect("TaskStatusUpdated", {"task_id": task_id, "task_status": status})


def chunk_generated(command_id: str, chunk: Tagged) -> PublishEventEffect:
    return PublishEventEffect("ChunkGenerated", {"command_id": command_id, "chunk": chunk})


def download_progress(progress: Tagged) -> PublishEventEffect:
    return PublishEventEffect("NodeDownloadProgress", {"download_progress": progress})


def node_info(node_id: str, when: str, info: Raw) -> PublishEventEffect:
    return PublishEventEffect("NodeGatheredInfo", {"node_id": node_id, "when": when, "info": info})


def reached(node_id: str, other: str, address: Raw) -> PublishEventEffect:
    """The edge from this node to another one."""
    conn = {"source": node_id, "sink": other, "edge": {"sink_multiaddr": address}}
    return PublishEventEffect("TopologyEdgeCreated", {"conn": conn})
