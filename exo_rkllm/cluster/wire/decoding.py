"""What this node acts on, out of the cluster's JSON: only the fields that are needed, whatever else is there.

The functions take values in the table's spelling: a message that passed `Revision.exact`, or what `Revision.shaped`
makes of one. They raise Unreadable if something needed is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from exo_rkllm.cluster.wire.events import (
    ClusterState,
    CustomModelCardAdded,
    CustomModelCardDeleted,
    DownloadCommand,
    ElectionMessage,
    Event,
    ImagePart,
    InputChunkReceived,
    Instance,
    InstanceCreated,
    InstanceDeleted,
    LogEntry,
    NodeDownloadProgress,
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


class Unreadable(Exception):
    """A message lacks something that is needed of it."""


def parsed(payload: bytes) -> Raw:
    """The object that a message is; raises ValueError where it is no JSON."""
    value = json.loads(payload)
    if not isinstance(value, dict):
        raise Unreadable("no object")
    return value


def session_id(value: Any) -> SessionId:
    match value:
        case {"master_node_id": str(master), "election_clock": int(clock)}:
            return SessionId(master, clock)
    raise Unreadable("no session")


def log_entry(message: Raw) -> LogEntry:
    kind, body = _tagged(message.get("event"))
    match message, body:
        case {"origin_idx": int(index), "origin": str(origin), "session": session}, {"event_id": str(event_id)}:
            return LogEntry(index, origin, session_id(session), kind, event_id, body)
    raise Unreadable("no event of a log")


def election_message(message: Raw) -> ElectionMessage:
    match message:
        case {
            "clock": int(clock),
            "seniority": int(seniority),
            "commands_seen": int(seen),
            "proposed_session": session,
        }:
            return ElectionMessage(clock, seniority, seen, session_id(session))
    raise Unreadable("no election message")


def download_command(message: Raw) -> DownloadCommand:
    match _tagged(message.get("command")):
        case "StartDownload", {"target_node_id": str(target), "shard_metadata": dict(shard)}:
            return DownloadCommand("StartDownload", target, _model_of_shard(shard), shard)
        case kind, {"target_node_id": str(target), "model_id": str(model)}:
            return DownloadCommand(kind, target, model, {})
    raise Unreadable("no download command")


def event(kind: str, body: Raw) -> Event:
    """An event of the log. One that cannot be read changes nothing, since exo itself would have refused it."""
    try:
        return _event(kind, body) or OtherEvent(kind)
    except Unreadable:
        return OtherEvent(kind)


def _event(kind: str, body: Raw) -> Event | None:
    match kind, body:
        case "NodeGatheredInfo", {"node_id": str(node), "info": dict(info)}:
            return NodeGatheredInfo(node, _facts(info))
        case "NodeTimedOut", {"node_id": str(node)}:
            return NodeTimedOut(node)
        case "TaskCreated", {"task": task}:
            return TaskCreated(_task(task))
        case "TaskStatusUpdated", {"task_id": str(task_id), "task_status": str(status)}:
            return TaskStatusUpdated(task_id, status)
        case "TaskDeleted", {"task_id": str(task_id)}:
            return TaskDeleted(task_id)
        case "InstanceCreated", {"instance": instance}:
            return InstanceCreated(_instance(instance))
        case "InstanceDeleted", {"instance_id": str(instance_id)}:
            return InstanceDeleted(instance_id)
        case "RunnerStatusUpdated", {"runner_id": str(runner_id), "runner_status": status}:
            return RunnerStatusUpdated(runner_id, _tagged(status)[0])
        case "CustomModelCardAdded", {"model_card": {"model_id": str(model)} as card}:
            return CustomModelCardAdded(model, card)
        case "CustomModelCardDeleted", {"model_id": str(model)}:
            return CustomModelCardDeleted(model)
        case "NodeDownloadProgress", {"download_progress": progress}:
            return _download(progress)
        case "InputChunkReceived", {"command_id": str(command_id), "chunk": chunk}:
            return InputChunkReceived(_image_part(command_id, chunk))
    return None


def state(value: Raw) -> ClusterState:
    """`GET /state` in the table's spelling (record `State`)."""
    applied = value.get("last_event_applied_idx")
    if not isinstance(applied, int):
        raise Unreadable("no last_event_applied_idx")
    cards = _objects(value, "custom_model_cards")
    return ClusterState(
        applied,
        tuple(_instance(entry) for entry in _objects(value, "instances").values()),
        tuple(RunnerStatusUpdated(runner, _tagged(it)[0]) for runner, it in _objects(value, "runners").items()),
        tuple(_task(entry) for entry in _objects(value, "tasks").values()),
        _nodes(value),
        cards,
        tuple(_download(entry) for entries in _objects(value, "downloads").values() for entry in entries),
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


def _objects(value: Raw, name: str) -> Raw:
    objects = value.get(name)
    if not isinstance(objects, dict):
        raise Unreadable(f"no {name}")
    return objects


def _words(values: Any) -> tuple[str, ...]:
    return tuple(value for value in values or () if isinstance(value, str))


def _model_of_shard(shard: Any) -> str:
    match _tagged(shard):
        case _, {"model_card": {"model_id": str(model)}}:
            return model
    raise Unreadable("no model of a shard")


def _instance(value: Any) -> Instance:
    match _tagged(value):
        case _, {
            "instance_id": str(instance_id),
            "shard_assignments": {
                "model_id": str(model),
                "runner_to_shard": dict(runners),
                "node_to_runner": dict(nodes),
            },
        }:
            assigned = {node: runner for node, runner in nodes.items() if isinstance(runner, str)}
            return Instance(instance_id, model, tuple(runners), assigned)
    raise Unreadable("no instance")


def _task(value: Any) -> Task:
    kind, body = _tagged(value)
    match body:
        case {"task_id": str(task_id), "instance_id": str(instance_id), "task_status": str(status)}:
            command, params = body.get("command_id"), body.get("task_params")
            return Task(
                task_id,
                kind,
                instance_id,
                status,
                command if isinstance(command, str) else "",
                params if isinstance(params, dict) else {},
            )
    raise Unreadable("no task")


def _download(value: Any) -> NodeDownloadProgress:
    match _tagged(value):
        case progress, {"node_id": str(node), "shard_metadata": shard}:
            return NodeDownloadProgress(node, _model_of_shard(shard), progress)
    raise Unreadable("no download")


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
    identities, networks = _objects(value, "node_identities"), _objects(value, "node_network")
    backends = _objects(value, "node_backends")
    nodes = {}
    for node in _objects(value, "last_seen"):
        identity, network = identities.get(node) or {}, networks.get(node) or {}
        nodes[node] = NodeFacts(
            name=identity.get("friendly_name"),
            model=identity.get("model_id"),
            chip=identity.get("chip_id"),
            addresses=_addresses(network.get("interfaces")),
            backends=_words(backends[node]) if node in backends else None,
        )
    return nodes


def _image_part(command_id: str, value: Any) -> ImagePart:
    match _tagged(value):
        case _, {"image_index": int(image), "chunk_index": int(part), "total_chunks": int(parts), "data": str(data)}:
            return ImagePart(command_id, image, part, parts, data)
    raise Unreadable("no part of an image")
