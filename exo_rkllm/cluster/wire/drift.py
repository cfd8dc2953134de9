"""How the cluster at hand differs from the revision that we speak; any difference keeps us from speaking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from exo_rkllm.cluster.wire.checks import Mismatch
from exo_rkllm.cluster.wire.revisions import Revision
from exo_rkllm.cluster.wire.table import RecordSpec

# Types of the log that we send as well, or whose contents we send by command.
EVENTS = "NodeGatheredInfo NodeDownloadProgress RunnerStatusUpdated TaskStatusUpdated ChunkGenerated"
RESULTS = "InstanceCreated CustomModelCardAdded CustomModelCardDeleted MlxRingInstance PipelineShardMetadata"
INFOS = "MiscData StaticNodeInformation NodeBackends NodeDiskUsage NodeNetworkInterfaces"
STATUSES = "Idle Loading Loaded WarmingUp Ready Running ShuttingDown Shutdown Failed"
CHUNKS = "TokenChunk ToolCallChunk ErrorChunk ImageChunk PrefillProgressChunk"
DOWNLOADS = "DownloadCompleted DownloadPending DownloadFailed"
SENT = {
    *f"{EVENTS} {RESULTS} {INFOS} {CHUNKS} {DOWNLOADS}".split(),
    *(f"Runner{status}" for status in STATUSES.split()),
}


def state_keys(revision: Revision, state: Mapping[str, Any]) -> Iterator[str]:
    """Differences of `GET /state`."""
    yield from _names("State", {field.camel for field in revision.table.records["State"].fields}, set(state))


def openapi(revision: Revision, document: Mapping[str, Any]) -> Iterator[str]:
    """Differences of `GET /openapi.json`, by names and not by text, which depends on exo's libraries."""
    components = document.get("components")
    schemas = components.get("schemas") if isinstance(components, dict) else None
    if not isinstance(schemas, dict) or not schemas:
        yield "openapi.json names no types"
        return
    for name in revision.table.lists["published"]:
        schema = schemas.get(name, schemas.get(f"{name}-Input"))
        if not isinstance(schema, dict):
            yield f"{name}: not there any more"
        elif name in revision.table.enums:
            yield from _names(name, set(revision.table.enums[name]), set(schema.get("enum", ())))
        else:
            yield from _record(revision.table.records[name], schema)


def _record(record: RecordSpec, schema: Mapping[str, Any]) -> Iterator[str]:
    fields = {field.camel for field in record.fields}
    required = {field.camel for field in record.fields if not field.optional}
    properties = set(schema.get("properties", ()))
    yield from _names(record.name, fields, properties)
    for name in sorted((set(schema.get("required", ())) ^ required) & fields & properties):
        yield f"{record.name}: {name} is {'not required any more' if name in required else 'required'}"


def _names(where: str, expected: set[str], actual: set[str]) -> Iterator[str]:
    for name in sorted(actual - expected):
        yield f"{where}: {name} is new"
    for name in sorted(expected - actual):
        yield f"{where}: {name} is missing"


@dataclass(frozen=True, slots=True)
class Difference:
    problem: str
    ours: bool  # it concerns a type that we send


def of_message(topic: str, message: object, revision: Revision) -> Difference | None:
    """What a message of the cluster has that the table has not, or lacks of it."""
    try:
        revision.exact.topics[topic](message)
    except Mismatch as wrong:
        # a kind of event that we do not know is none that we send
        foreign_event = wrong.path == ["event"] and wrong.problem.startswith("unknown Event")
        kinds = [part for part in wrong.path if part[:1].isupper()]
        other_kind = wrong.problem.startswith(("unknown GatheredInfo", "unknown Chunk", "unknown Instance"))
        ours = topic == "election_messages" or (not foreign_event and not other_kind and set(kinds) <= SENT)
        return Difference(str(wrong), ours)
    return None
