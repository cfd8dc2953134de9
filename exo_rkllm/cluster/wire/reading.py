"""What this node acts on, read from the cluster's JSON: only the fields that are needed, whatever else is there.

The same readers take the log (snake_case) and `GET /state` (camelCase); exo itself accepts both spellings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from exo_rkllm.cluster.wire.messages import Session

# What a JSON parser returns; readers narrow it field by field.
Raw: TypeAlias = "Mapping[str, Any]"


class Unreadable(Exception):
    """A message lacks something that is needed of it."""


# ── values ───────────────────────────────────────────────────────────────────────────────────────


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
    """What is known of a node; None is what an event does not speak of."""

    name: str | None = None
    model: str | None = None
    chip: str | None = None
    addresses: tuple[str, ...] | None = None
    backends: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ImagePart:
    """Base64 text of images comes ahead of its task, in parts (reference 2.7)."""

    command_id: str
    image: int
    part: int
    parts: int
    data: str


# ── events of the log ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class InstanceCreated:
    instance: Instance


@dataclass(frozen=True, slots=True)
class InstanceDeleted:
    instance_id: str


@dataclass(frozen=True, slots=True)
class RunnerMoved:
    runner_id: str
    status: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class TaskCreated:
    task: Task


@dataclass(frozen=True, slots=True)
class TaskMoved:
    task_id: str
    status: str


@dataclass(frozen=True, slots=True)
class TaskDeleted:
    task_id: str


@dataclass(frozen=True, slots=True)
class NodeHeard:
    node_id: str
    facts: NodeFacts


@dataclass(frozen=True, slots=True)
class NodeTimedOut:
    node_id: str


@dataclass(frozen=True, slots=True)
class CardAdded:
    model_id: str
    card: Raw


@dataclass(frozen=True, slots=True)
class CardDeleted:
    model_id: str


@dataclass(frozen=True, slots=True)
class Download:
    """`state` is exo's name of it: DownloadCompleted, DownloadFailed, ..."""

    node_id: str
    model_id: str
    state: str


@dataclass(frozen=True, slots=True)
class ImageArrived:
    part: ImagePart


@dataclass(frozen=True, slots=True)
class Other:
    """Changes nothing that this node keeps."""

    kind: str


Event: TypeAlias = (
    InstanceCreated
    | InstanceDeleted
    | RunnerMoved
    | TaskCreated
    | TaskMoved
    | TaskDeleted
    | NodeHeard
    | NodeTimedOut
    | CardAdded
    | CardDeleted
    | Download
    | ImageArrived
    | Other
)


@dataclass(frozen=True, slots=True)
class Logged:
    """One event of the master's log as it arrives, its body still unread."""

    index: int
    origin: str
    session: Session
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
class Ballot:
    """One candidate of an election."""

    clock: int
    seniority: int
    commands_seen: int
    session: Session


@dataclass(frozen=True, slots=True)
class ClusterState:
    """`GET /state`, as far as it is needed."""

    applied: int
    instances: tuple[Instance, ...]
    runners: tuple[RunnerMoved, ...]
    tasks: tuple[Task, ...]
    nodes: Mapping[str, NodeFacts]
    cards: Mapping[str, Raw]
    downloads: tuple[Download, ...]


# ── readers ──────────────────────────────────────────────────────────────────────────────────────


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)


def get(source: Raw, name: str) -> Any:
    """A field in either spelling, None where it is missing."""
    found = source.get(name)
    return source.get(_camel(name)) if found is None and "_" in name else found


def _text(source: Raw, name: str) -> str:
    found = get(source, name)
    if not isinstance(found, str):
        raise Unreadable(f"no {name}")
    return found


def _number(source: Raw, name: str) -> int:
    found = get(source, name)
    if type(found) is not int:
        raise Unreadable(f"no {name}")
    return found


def _object(source: Raw, name: str) -> Raw:
    found = get(source, name)
    if not isinstance(found, dict):
        raise Unreadable(f"no {name}")
    return found


def _list(source: Raw, name: str) -> Sequence[Any]:
    found = get(source, name)
    if not isinstance(found, list):
        raise Unreadable(f"no {name}")
    return found


def _tagged(value: Any) -> tuple[str, Raw]:
    if isinstance(value, dict) and len(value) == 1:
        ((tag, body),) = value.items()
        if isinstance(body, dict):
            return tag, body
    raise Unreadable("no tagged object")


def _words(values: Any) -> tuple[str, ...]:
    return tuple(value for value in values or () if isinstance(value, str))


def parsed(payload: bytes) -> Raw:
    """The object that a message is; raises ValueError where it is no JSON."""
    value = json.loads(payload)
    if not isinstance(value, dict):
        raise Unreadable("no object")
    return value


def session(value: Raw) -> Session:
    return Session(_text(value, "master_node_id"), _number(value, "election_clock"))


def logged(message: Raw) -> Logged:
    kind, body = _tagged(message.get("event"))
    return Logged(
        _number(message, "origin_idx"),
        _text(message, "origin"),
        session(_object(message, "session")),
        kind,
        _text(body, "event_id"),
        body,
    )


def ballot(message: Raw) -> Ballot:
    return Ballot(
        _number(message, "clock"),
        _number(message, "seniority"),
        _number(message, "commands_seen"),
        session(_object(message, "proposed_session")),
    )


def download_command(message: Raw) -> DownloadCommand:
    kind, body = _tagged(message.get("command"))
    target = _text(body, "target_node_id")
    if kind != "StartDownload":
        return DownloadCommand(kind, target, _text(body, "model_id"), {})
    shard = _object(body, "shard_metadata")
    return DownloadCommand(kind, target, _model_of_shard(shard), shard)


def _model_of_shard(shard: Any) -> str:
    _, body = _tagged(shard)
    return _text(_object(body, "model_card"), "model_id")


def _instance(value: Any) -> Instance:
    _, body = _tagged(value)
    shards = _object(body, "shard_assignments")
    return Instance(
        _text(body, "instance_id"),
        _text(shards, "model_id"),
        tuple(_object(shards, "runner_to_shard")),
        {node: runner for node, runner in _object(shards, "node_to_runner").items() if isinstance(runner, str)},
    )


def _task(value: Any) -> Task:
    kind, body = _tagged(value)
    command = get(body, "command_id")
    params = get(body, "task_params")
    return Task(
        _text(body, "task_id"),
        kind,
        _text(body, "instance_id"),
        _text(body, "task_status"),
        command if isinstance(command, str) else "",
        params if isinstance(params, dict) else {},
    )


def _runner(runner_id: str, value: Any) -> RunnerMoved:
    status, body = _tagged(value)
    message = get(body, "error_message")
    return RunnerMoved(runner_id, status, message if isinstance(message, str) else "")


def _download(value: Any) -> Download:
    state, body = _tagged(value)
    return Download(_text(body, "node_id"), _model_of_shard(_object(body, "shard_metadata")), state)


def _addresses(interfaces: Any) -> tuple[str, ...]:
    return tuple(_text(entry, "ip_address") for entry in interfaces or () if isinstance(entry, dict))


def _facts(info: Raw) -> NodeFacts:
    if len(info) == 1:
        kind, body = _tagged(info)
        if kind == "MiscData":
            return NodeFacts(name=_text(body, "friendly_name"))
        if kind == "StaticNodeInformation":
            return NodeFacts(model=_text(body, "model"), chip=_text(body, "chip"))
        if kind == "NodeNetworkInterfaces":
            return NodeFacts(addresses=_addresses(body.get("ifaces")))
        if kind == "NodeBackends":
            return NodeFacts(backends=_words(body.get("backends")))
    return NodeFacts()


def _image(body: Raw) -> ImageArrived:
    _, chunk = _tagged(body.get("chunk"))
    return ImageArrived(
        ImagePart(
            _text(body, "command_id"),
            _number(chunk, "image_index"),
            _number(chunk, "chunk_index"),
            _number(chunk, "total_chunks"),
            _text(chunk, "data"),
        )
    )


def event(kind: str, body: Raw) -> Event:
    match kind:
        case "NodeGatheredInfo":
            return NodeHeard(_text(body, "node_id"), _facts(_object(body, "info")))
        case "NodeTimedOut":
            return NodeTimedOut(_text(body, "node_id"))
        case "TaskCreated":
            return TaskCreated(_task(body.get("task")))
        case "TaskStatusUpdated":
            return TaskMoved(_text(body, "task_id"), _text(body, "task_status"))
        case "TaskDeleted":
            return TaskDeleted(_text(body, "task_id"))
        case "InstanceCreated":
            return InstanceCreated(_instance(body.get("instance")))
        case "InstanceDeleted":
            return InstanceDeleted(_text(body, "instance_id"))
        case "RunnerStatusUpdated":
            return _runner(_text(body, "runner_id"), body.get("runner_status"))
        case "CustomModelCardAdded":
            card = _object(body, "model_card")
            return CardAdded(_text(card, "model_id"), card)
        case "CustomModelCardDeleted":
            return CardDeleted(_text(body, "model_id"))
        case "NodeDownloadProgress":
            return _download(body.get("download_progress"))
        case "InputChunkReceived":
            return _image(body)
        case _:
            return Other(kind)


def _node_facts(value: Raw, node: str) -> NodeFacts:
    identity = _object(value, "node_identities").get(node) or {}
    network = _object(value, "node_network").get(node) or {}
    backends = _object(value, "node_backends").get(node)
    return NodeFacts(
        name=get(identity, "friendly_name"),
        model=get(identity, "model_id"),
        chip=get(identity, "chip_id"),
        addresses=_addresses(network.get("interfaces")),
        backends=None if backends is None else _words(backends),
    )


def _downloads(value: Raw) -> Iterator[Download]:
    for entries in _object(value, "downloads").values():
        for entry in entries:
            yield _download(entry)


def state(value: Raw) -> ClusterState:
    return ClusterState(
        _number(value, "last_event_applied_idx"),
        tuple(_instance(entry) for entry in _object(value, "instances").values()),
        tuple(_runner(runner, status) for runner, status in _object(value, "runners").items()),
        tuple(_task(entry) for entry in _object(value, "tasks").values()),
        {node: _node_facts(value, node) for node in _object(value, "last_seen")},
        _object(value, "custom_model_cards"),
        tuple(_downloads(value)),
    )


def same(ours: Any, theirs: Any) -> bool:
    """Whether a value of ours is what the cluster holds, whatever the spelling there."""
    if isinstance(ours, Mapping):
        return isinstance(theirs, Mapping) and all(same(value, get(theirs, key)) for key, value in ours.items())
    if isinstance(ours, list | tuple):
        if not isinstance(theirs, list) or len(ours) != len(theirs):
            return False
        return all(same(one, other) for one, other in zip(ours, theirs, strict=True))
    return bool(ours == theirs)
