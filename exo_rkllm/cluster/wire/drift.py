"""How the cluster found differs from the revision that we speak; any difference keeps us from speaking."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from exo_rkllm.cluster.wire import messages
from exo_rkllm.cluster.wire.revisions import Revision
from exo_rkllm.cluster.wire.table import Mismatch, RecordSpec

# Types of the log that we send as well, or whose contents we send by command.
SENT: frozenset[str] = (
    frozenset(
        cls.__name__
        for kinds in (messages.Event, messages.GatheredInfo, messages.RunnerStatus, messages.Chunk)
        for cls in get_args(kinds)
    )
    | {"InstanceCreated", "CustomModelCardAdded", "DownloadCompleted", "DownloadPending", "DownloadFailed"}
    | {
        "PipelineShardMetadata",
        "MlxRingInstance",
    }
)


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)


def state_keys(revision: Revision, state: Mapping[str, Any]) -> Iterator[str]:
    """Differences of `GET /state`."""
    expected = set(revision.table.lists["state_keys"])
    yield from _names("State", expected, set(state))


def openapi(revision: Revision, document: Mapping[str, Any]) -> Iterator[str]:
    """Differences of `GET /openapi.json`, by names and not by text, which depends on exo's libraries."""
    components = document.get("components")
    schemas = components.get("schemas") if isinstance(components, dict) else None
    if not isinstance(schemas, dict) or not schemas:
        yield "openapi.json names no types"
        return
    for name in revision.table.lists["published"]:
        found = schemas.get(name, schemas.get(f"{name}-Input"))
        if not isinstance(found, dict):
            yield f"{name}: not there any more"
        elif name in revision.table.enums:
            yield from _names(name, set(revision.table.enums[name]), set(found.get("enum", ())))
        else:
            yield from _record(revision.table.records[name], found)


def _record(record: RecordSpec, found: Mapping[str, Any]) -> Iterator[str]:
    fields = {_camel(field.name) for field in record.fields}
    needed = {_camel(field.name) for field in record.fields if not field.optional}
    there = set(found.get("properties", ()))
    yield from _names(record.name, fields, there)
    for name in sorted((set(found.get("required", ())) ^ needed) & fields & there):
        yield f"{record.name}: {name} is {'not required any more' if name in needed else 'required'}"


def _names(where: str, expected: set[str], found: set[str]) -> Iterator[str]:
    for name in sorted(found - expected):
        yield f"{where}: {name} is new"
    for name in sorted(expected - found):
        yield f"{where}: {name} is missing"


def of_message(topic: str, message: object, revision: Revision) -> tuple[str, bool] | None:
    """What is wrong with a message of the cluster, and whether it concerns a type that we send."""
    try:
        revision.exact.topics[topic](message)
    except Mismatch as wrong:
        # a kind of event that we do not know is none that we send
        foreign_event = wrong.path == ["event"] and wrong.problem.startswith("unknown Event")
        kinds = [part for part in wrong.path if part[:1].isupper()]
        other_kind = wrong.problem.startswith(("unknown GatheredInfo", "unknown Chunk", "unknown Instance"))
        ours = topic == "election_messages" or (not foreign_event and not other_kind and set(kinds) <= SENT)
        return str(wrong), ours
    return None
