"""The table of what exo accepts: it holds for every captured message, and it names what does not fit."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from exo_rkllm.cluster.wire import drift
from exo_rkllm.cluster.wire.checks import Checks, Mismatch
from exo_rkllm.cluster.wire.revisions import Revision, supported
from exo_rkllm.cluster.wire.table import parse
from tests.exo_cluster.captured import openapi, samples, scenarios
from tests.exo_cluster.standin import api


@pytest.fixture(scope="module")
def revision() -> Revision:
    return supported()[0]


def sample(kind: str, topic: str = "") -> Any:
    found = next(one for one in samples() if one.type == kind and topic in one.topic)
    return copy.deepcopy(found.message)


def test_every_sample_fits(revision: Revision) -> None:
    assert len(samples()) == 91
    for one in samples():
        revision.exact.topics[one.topic](one.message)
        revision.accepted.topics[one.topic](one.message)


def test_of_all_captured_messages_only_the_deliberate_one_does_not_fit(revision: Revision) -> None:
    wrong = []
    for name, records in scenarios().items():
        for record in records:
            if record.topic in revision.exact.topics and record.direction in ("in", "out"):
                found = drift.of_message(record.topic, record.message, revision)
                if found is not None:
                    wrong.append((name, found.problem, found.ours))
    assert wrong == [
        (
            "23_unknown_backend_kills_exo",
            "event.NodeGatheredInfo.info.NodeBackends.backends.0: 'Rkllm' is none of MlxMetal, MlxCpu, MlxCuda, Vllm",
            True,
        )
    ]


def broken(message: Any, path: str, value: Any) -> Any:
    """The message with one place changed; a value of `...` takes the place away."""
    *inner, last = path.split(".")
    place = message
    for part in inner:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return message


CHUNK = "event.ChunkGenerated.chunk.TokenChunk"
INSTANCE = "command.CreateInstance.instance.MlxRingInstance"


@pytest.mark.parametrize(
    ("kind", "topic", "path", "value", "named"),
    [
        ("ChunkGenerated/TokenChunk", "local_events", f"{CHUNK}.colour", "red", f"{CHUNK}: unknown field 'colour'"),
        ("ChunkGenerated/TokenChunk", "local_events", f"{CHUNK}.usage", ..., f"{CHUNK}: missing field 'usage'"),
        ("ChunkGenerated/TokenChunk", "local_events", f"{CHUNK}.token_id", 1.0, "token_id: 1.0 is no integer"),
        ("ChunkGenerated/TokenChunk", "local_events", f"{CHUNK}.token_id", True, "token_id: True is no integer"),
        ("ChunkGenerated/TokenChunk", "local_events", f"{CHUNK}.logprob", float("nan"), "no finite number"),
        ("ChunkGenerated/TokenChunk", "local_events", f"{CHUNK}.is_thinking", 0, "is no boolean"),
        ("ChunkGenerated/TokenChunk", "local_events", f"{CHUNK}.text", None, "is no string"),
        ("ChunkGenerated/TokenChunk", "local_events", f"{CHUNK}.finish_reason", "eos", "none of stop, length"),
        (
            "ChunkGenerated/TokenChunk",
            "local_events",
            "event.ChunkGenerated.chunk",
            {"Blob": {}},
            "unknown Chunk 'Blob'",
        ),
        ("ChunkGenerated/TokenChunk", "local_events", "event", {"NewEvent": {}}, "unknown Event 'NewEvent'"),
        ("ChunkGenerated/TokenChunk", "local_events", "event", [], "unknown Event []"),
        ("ChunkGenerated/TokenChunk", "local_events", "origin_idx", -1, "-1 is no integer of at least 0"),
        ("ChunkGenerated/TokenChunk", "local_events", "session", "s", "session: 's' is no object"),
        ("CreateInstance", "commands", f"{INSTANCE}.shard_assignments.node_to_runner.aa", "x", "has no shard"),
        ("CreateInstance", "commands", f"{INSTANCE}.hosts_by_node.aa", [{"ip": "", "port": 70000}], "no port"),
        ("CreateInstance", "commands", f"{INSTANCE}.hosts_by_node", [], "is no object"),
        ("CreateInstance", "commands", f"{INSTANCE}.hosts_by_node.aa", {}, "is no list"),
        ("AddCustomModelCard", "commands", "command.AddCustomModelCard.model_card.n_layers", 0, "at least 1"),
        ("NodeGatheredInfo/MiscData", "local_events", "event.NodeGatheredInfo.when", "yesterday", "is no time"),
    ],
)
def test_misfit_is_named_with_its_path(
    revision: Revision, kind: str, topic: str, path: str, value: Any, named: str
) -> None:
    message = broken(sample(kind, topic), path, value)
    with pytest.raises(Mismatch) as found:
        revision.exact.topics[topic](message)
    assert named in str(found.value)
    with pytest.raises(Mismatch):
        revision.encode(topic, message)


def test_exact_check_demands_fields_that_have_defaults(revision: Revision) -> None:
    message = broken(sample("ChunkGenerated/TokenChunk", "local_events"), f"{CHUNK}.is_thinking", ...)
    revision.accepted.topics["local_events"](message)
    with pytest.raises(Mismatch, match="missing field 'is_thinking'"):
        revision.exact.topics["local_events"](message)


def test_text_that_has_no_utf8_is_not_sent(revision: Revision) -> None:
    message = broken(sample("ChunkGenerated/TokenChunk", "local_events"), f"{CHUNK}.text", "\ud83d")
    with pytest.raises(Mismatch):
        revision.encode("local_events", message)


def test_what_is_sent_is_what_was_meant(revision: Revision) -> None:
    message = broken(sample("ChunkGenerated/TokenChunk", "local_events"), f"{CHUNK}.text", "größer 🦀\u2028\x00")
    assert json.loads(revision.encode("local_events", message)) == message


def test_an_unknown_topic_is_not_sent_to(revision: Revision) -> None:
    with pytest.raises(Mismatch, match="no topic 'gossip'"):
        revision.encode("gossip", {})


def test_a_type_may_contain_itself() -> None:
    checks = Checks(parse("record Node\n  children Node[]\n  name str? = null"), complete=True)
    check = checks.of("Node")
    check({"children": [{"children": [], "name": None}], "name": "root"})
    with pytest.raises(Mismatch, match=r"children.0.children.0: missing field 'name'"):
        check({"children": [{"children": [{"children": []}], "name": ""}], "name": ""})


def test_a_table_with_a_line_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="recrod"):
        parse("recrod Node")


def test_untagged_alternative_must_fit_one_record(revision: Revision) -> None:
    message = sample("TopologyEdgeCreated", "global_events")
    edge = message["event"]["TopologyEdgeCreated"]["conn"]
    edge["edge"]["sink_multiaddr"]["address"] = "somewhere"
    with pytest.raises(Mismatch, match="unknown Edge"):
        revision.exact.topics["global_events"](message)


# ── drift ──


def test_a_real_node_and_the_stand_in_speak_our_revision(revision: Revision) -> None:
    assert list(drift.openapi(revision, openapi())) == []
    assert list(drift.openapi(revision, api.openapi(revision))) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda types: types["Backend"]["enum"].append("Rocm"), ["Backend: Rocm is new"]),
        (lambda types: types["Backend"]["enum"].remove("Vllm"), ["Backend: Vllm is missing"]),
        (lambda types: types["ModelCard"]["properties"].update(region={}), ["ModelCard: region is new"]),
        (lambda types: types["ModelCard"]["properties"].pop("usesCfg"), ["ModelCard: usesCfg is missing"]),
        (lambda types: types["ModelCard"]["required"].append("family"), ["ModelCard: family is required"]),
        (lambda types: types["Memory"].update(required=["inBytes"]), ["Memory: inBytes is required"]),
        (
            lambda types: types["ModelCard"]["required"].remove("nLayers"),
            ["ModelCard: nLayers is not required any more"],
        ),
        (lambda types: types.pop("MlxRingInstance"), ["MlxRingInstance: not there any more"]),
        (lambda types: types.update({"Host-Input": types.pop("Host")}), []),
    ],
)
def test_differences_of_a_newer_exo_are_named(revision: Revision, change: Any, named: list[str]) -> None:
    document = openapi()
    change(document["components"]["schemas"])
    assert list(drift.openapi(revision, document)) == named


@pytest.mark.parametrize("document", [{}, {"components": []}, {"components": {"schemas": {}}}])
def test_openapi_of_another_program_is_a_difference(revision: Revision, document: Any) -> None:
    assert list(drift.openapi(revision, document)) == ["openapi.json names no types"]


def test_differences_of_the_state_are_named(revision: Revision) -> None:
    state: dict[str, object] = {field.camel: {} for field in revision.table.records["State"].fields}
    assert list(drift.state_keys(revision, state)) == []
    del state["runners"]
    assert list(drift.state_keys(revision, {**state, "quorum": {}})) == [
        "State: quorum is new",
        "State: runners is missing",
    ]


@pytest.mark.parametrize(
    ("message", "ours"),
    [
        (lambda: broken(sample("ChunkGenerated/TokenChunk", "global"), f"{CHUNK}.x", 1), True),
        (lambda: broken(sample("ChunkGenerated/TokenChunk", "global"), "x", 1), True),
        (lambda: broken(sample("ChunkGenerated/TokenChunk", "global"), "event", {"Quorum": {}}), False),
        (lambda: broken(sample("TaskDeleted", "global"), "event.TaskDeleted.x", 1), False),
        (lambda: broken(sample("ChunkGenerated/TokenChunk", "global"), "event.ChunkGenerated.chunk", {"X": {}}), False),
    ],
)
def test_only_types_that_we_send_keep_us_silent(revision: Revision, message: Any, ours: bool) -> None:
    found = drift.of_message("global_events", message(), revision)
    assert found is not None
    assert found.ours is ours


# ── an earlier exo ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def released() -> Revision:
    return next(one for one in supported() if one.transport == "libp2p")


def status(body: Any) -> Any:
    event = {"RunnerStatusUpdated": {"event_id": "e", "runner_id": "r", "runner_status": body}}
    return {"origin_idx": 0, "origin": "o", "session": {"master_node_id": "m", "election_clock": 0}, "event": event}


def test_fields_that_came_later_are_not_said_to_an_earlier_exo(released: Revision, revision: Revision) -> None:
    failed = status({"RunnerFailed": {"error_message": "x", "diagnostics": []}})
    assert json.loads(released.encode("local_events", failed)) == status({"RunnerFailed": {"error_message": "x"}})
    assert json.loads(revision.encode("local_events", failed)) == failed
    card = sample("AddCustomModelCard")
    assert (
        "backends" not in json.loads(released.encode("commands", card))["command"]["AddCustomModelCard"]["model_card"]
    )


def test_types_that_came_later_are_refused_by_an_earlier_exo(released: Revision) -> None:
    with pytest.raises(Mismatch, match="unknown GatheredInfo"):
        released.encode("local_events", sample("NodeGatheredInfo/NodeBackends"))
    assert not {"NodeBackends", "InstanceLink", "SetInstanceLink"} & released.table.records.keys()
    assert "Backend" not in released.table.lists["published"]


def test_every_type_of_an_earlier_exo_has_a_check(released: Revision) -> None:
    for record in released.table.records.values():
        for entry in record.fields:
            released.exact.of(entry.type)


def test_message_of_a_later_exo_is_told_from_one_of_an_earlier(released: Revision) -> None:
    later = status({"RunnerFailed": {"error_message": "x", "diagnostics": []}})
    difference = drift.of_message("local_events", later, released)
    assert difference is not None
    assert difference.ours
