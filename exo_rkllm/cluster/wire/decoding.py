"""What this node acts on, out of the cluster's JSON: only the fields that are needed, whatever else is there.

The functions take values in the table's spelling: a message that passed `Revision.exact`, or what `Revision.shape`
makes of one. They raise Unreadable if something needed is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from exo_rkllm.cluster.wire.events import (
    ClusterState,
    CustomModelCardAdded,
    CustomModelCardDeleted,
    DownloadCommand,
    ElectionMessage,
    Event,
    InputChunkReceived,
    Instance,
    InstanceCreated,
    InstanceDeleted,
    LogEntry,
    NodeFacts,
    NodeGatheredInfo,
    NodeTimedOut,
    OtherEvent,
    Raw,
    RunnerStatusUpdated,
    SessionId,
    Task,
    TaskCreated,
    TaskDeleted,
    TaskStatusUpdated,
)

T = TypeVar("T")


class Unreadable(Exception):
    """A message lacks something that is needed of it."""


def parse(payload: bytes) -> Raw:
    """The object that a message is; raises ValueError where it is no JSON."""
    value = json.loads(payload)
    if not isinstance(value, dict):
        raise Unreadable("no object")
    return value


def session_id(value: Any) -> SessionId:
    return SessionId(_text(value, "master_node_id"), _field(value, "election_clock", int))


def log_entry(message: Raw) -> LogEntry:
    kind, body = _tagged(message.get("event"))
    return LogEntry(
        _field(message, "origin_idx", int),
        _text(message, "origin"),
        session_id(message.get("session")),
        kind,
        _text(body, "event_id"),
        body,
    )


def election_message(message: Raw) -> ElectionMessage:
    clock, seniority, seen = (_field(message, name, int) for name in ("clock", "seniority", "commands_seen"))
    return ElectionMessage(clock, seniority, seen, session_id(message.get("proposed_session")))


def download_command(message: Raw) -> DownloadCommand:
    kind, body = _tagged(message.get("command"))
    target = _text(body, "target_node_id")
    if kind != "StartDownload":
        return DownloadCommand(kind, target, _text(body, "model_id"), {})
    shard = _object(body, "shard_metadata")
    return DownloadCommand(kind, target, _model_of_shard(shard), shard)


def event(kind: str, body: Raw) -> Event:
    """An event of the log. One that cannot be read changes nothing, since exo itself would have refused it."""
    try:
        return _event(kind, body)
    except Unreadable:
        return OtherEvent(kind)


def _event(kind: str, body: Raw) -> Event:
    match kind:
        case "NodeGatheredInfo":
            return NodeGatheredInfo(_text(body, "node_id"), _facts(_object(body, "info")))
        case "NodeTimedOut":
            return NodeTimedOut(_text(body, "node_id"))
        case "TaskCreated":
            return TaskCreated(_task(body.get("task")))
        case "TaskStatusUpdated":
            return TaskStatusUpdated(_text(body, "task_id"), _text(body, "task_status"))
        case "TaskDeleted":
            return TaskDeleted(_text(body, "task_id"))
        case "InstanceCreated":
            return InstanceCreated(_instance(body.get("instance")))
        case "InstanceDeleted":
            return InstanceDeleted(_text(body, "instance_id"))
        case "RunnerStatusUpdated":
            return RunnerStatusUpdated(_text(body, "runner_id"), _tagged(body.get("runner_status"))[0])
        case "CustomModelCardAdded":
            card = _object(body, "model_card")
            return CustomModelCardAdded(_text(card, "model_id"), card)
        case "CustomModelCardDeleted":
            return CustomModelCardDeleted(_text(body, "model_id"))
        case "InputChunkReceived":
            return _image_part(_text(body, "command_id"), body.get("chunk"))
    return OtherEvent(kind)


def state(value: Raw) -> ClusterState:
    """`GET /state` in the table's spelling (record `State`)."""
    return ClusterState(
        _field(value, "last_event_applied_idx", int),
        tuple(_instance(entry) for entry in _object(value, "instances").values()),
        tuple(RunnerStatusUpdated(runner, _tagged(it)[0]) for runner, it in _object(value, "runners").items()),
        tuple(_task(entry) for entry in _object(value, "tasks").values()),
        _nodes(value),
        _object(value, "custom_model_cards") if "custom_model_cards" in value else {},  # 1.0.71 keeps none
    )


def covers(theirs: Any, ours: Any) -> bool:
    """Whether a value of the cluster's has everything that a value of ours says."""
    if isinstance(ours, Mapping):
        return isinstance(theirs, Mapping) and all(covers(theirs.get(key), value) for key, value in ours.items())
    return bool(theirs == ours)


# ── parts of them ────────────────────────────────────────────────────────────────────────────────


def _tagged(value: Any) -> tuple[str, Raw]:
    if isinstance(value, dict) and len(value) == 1:
        ((tag, body),) = value.items()
        if isinstance(body, dict):
            return tag, body
    raise Unreadable("no tagged object")


def _field(value: Any, name: str, kind: type[T]) -> T:
    found = value.get(name) if type(value) is dict else None
    if type(found) is not kind:
        raise Unreadable(f"no {name}")
    return found


def _text(value: Any, name: str) -> str:
    return _field(value, name, str)


def _object(value: Any, name: str) -> Raw:
    return _field(value, name, dict)


def _words(values: Any) -> tuple[str, ...]:
    return tuple(value for value in values or () if isinstance(value, str))


def _model_of_shard(shard: Any) -> str:
    _, body = _tagged(shard)
    return _text(_object(body, "model_card"), "model_id")


def _instance(value: Any) -> Instance:
    _, body = _tagged(value)
    shards = _object(body, "shard_assignments")
    nodes = {node: runner for node, runner in _object(shards, "node_to_runner").items() if isinstance(runner, str)}
    return Instance(
        _text(body, "instance_id"), _text(shards, "model_id"), tuple(_object(shards, "runner_to_shard")), nodes
    )


def _task(value: Any) -> Task:
    kind, body = _tagged(value)
    command, params = body.get("command_id"), body.get("task_params")
    return Task(
        _text(body, "task_id"),
        kind,
        _text(body, "instance_id"),
        _text(body, "task_status"),
        command if isinstance(command, str) else "",
        params if isinstance(params, dict) else {},
    )


def _addresses(interfaces: Any) -> tuple[str, ...]:
    return _words(entry.get("ip_address") for entry in interfaces or () if isinstance(entry, dict))


def _facts(info: Raw) -> NodeFacts:
    match info:
        case {"MiscData": {"friendly_name": str(name)}}:
            return NodeFacts(name=name)
        case {"StaticNodeInformation": {"model": str(model), "chip": str(chip)}}:
            return NodeFacts(model=model, chip=chip)
        case {"NodeNetworkInterfaces": {"ifaces": list(interfaces)}}:
            return NodeFacts(addresses=_addresses(interfaces))
        case {"NodeBackends": {"backends": list(backends)}}:
            return NodeFacts(backends=_words(backends))
    return NodeFacts()


def _nodes(value: Raw) -> dict[str, NodeFacts]:
    identities, networks = _object(value, "node_identities"), _object(value, "node_network")
    backends = _object(value, "node_backends") if "node_backends" in value else {}  # nor these
    nodes = {}
    for node in _object(value, "last_seen"):
        identity, network = identities.get(node) or {}, networks.get(node) or {}
        nodes[node] = NodeFacts(
            name=identity.get("friendly_name"),
            model=identity.get("model_id"),
            chip=identity.get("chip_id"),
            addresses=_addresses(network.get("interfaces")),
            backends=_words(backends[node]) if node in backends else None,
        )
    return nodes


def _image_part(command_id: str, value: Any) -> InputChunkReceived:
    _, chunk = _tagged(value)
    image, part, parts = (_field(chunk, name, int) for name in ("image_index", "chunk_index", "total_chunks"))
    return InputChunkReceived(command_id, image, part, parts, _text(chunk, "data"))
