"""What is read of the cluster: tolerant where nothing depends on it, bounded whatever comes."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from exo_rkllm.backends.base import Image, Message, Sampling, Tool, ToolCall
from exo_rkllm.cluster.session.replica import Replica
from exo_rkllm.cluster.wire import decoding
from exo_rkllm.cluster.wire.decoding import Unreadable
from exo_rkllm.cluster.wire.events import (
    InputChunkReceived,
    NodeFacts,
    NodeGatheredInfo,
    NodeTimedOut,
    OtherEvent,
)
from exo_rkllm.cluster.wire.requests import ImageStore, request
from exo_rkllm.cluster.wire.revisions import supported
from exo_rkllm.errors import UsageError
from tests.exo_cluster.captured import samples, scenarios
from tests.exo_cluster.standin.state import State as Document

ME = "c0ffee00c0ffee00c0ffee00c0ffee01"


def test_every_sample_is_read() -> None:
    for sample in samples():
        if sample.topic in ("global_events", "local_events"):
            event = decoding.log_entry(sample.message)
            decoding.event(event.kind, event.body)
        elif sample.topic == "download_commands":
            assert decoding.download_command(sample.message).kind == sample.type
        elif sample.topic == "election_messages":
            assert decoding.election_message(sample.message).clock == sample.message["clock"]


def log_of(*names: str) -> dict[int, Any]:
    """A captured log by index."""
    found = {}
    for name in names:
        for record in scenarios()[name]:
            if record.topic == "global_events" and record.direction == "in":
                found[record.message["origin_idx"]] = record.message["event"]
    return found


def replayed(log: dict[int, Any], me: str = ME) -> Replica:
    replica = Replica(me)
    for index in sorted(log):
        ((kind, body),) = log[index].items()
        replica.apply(decoding.event(kind, body))
    return replica


def same_picture(one: Replica, other: Replica) -> bool:
    def picture(replica: Replica) -> Any:
        return (
            replica.instances,
            replica.runners,
            {key: (task.kind, task.status, task.command_id) for key, task in replica.tasks.items()},
            set(replica.nodes),
            {key: facts.name for key, facts in replica.nodes.items() if facts.name},
            set(replica.cards),
        )

    return bool(picture(one) == picture(other))


@pytest.mark.parametrize("upto", [100, 200, 300, 400, 500, 650, 700, 776, 800, 823])
def test_a_snapshot_and_the_log_give_the_same_picture(upto: int) -> None:
    """`GET /state` is spelled in another way and holds more; what we need of it is the same."""
    log = {index: event for index, event in log_of("12_minimal_worker").items() if index <= upto}
    document = Document()
    for index in sorted(log):
        document.apply(index, log[index])
    replica = Replica(ME)
    state = decoding.state(supported()[0].table.shape("State", document.document()))
    replica.load(state)
    assert state.applied == upto
    assert same_picture(replica, replayed(log))


def test_finished_tasks_and_runners_are_not_kept() -> None:
    replica = replayed(log_of("12_minimal_worker"))
    assert not replica.instances
    assert not replica.runners
    assert not replica.tasks
    assert len(replica.nodes) <= 6


def test_parameters_are_kept_for_our_own_tasks_only() -> None:
    log = log_of("06_restart_same_id_mid_stream", "05_parallel_requests")
    created = next(index for index in sorted(log) if index > 366 and "TaskCreated" in log[index])
    upto = {index: event for index, event in log.items() if index <= created}
    ours, theirs = replayed(upto), replayed(upto, me="somebody")
    assert all(task.params for task in ours.tasks.values())
    assert ours.tasks
    assert theirs.tasks.keys() == ours.tasks.keys()
    assert not any(task.params for task in theirs.tasks.values())


def test_node_facts_accumulate() -> None:
    replica = Replica(ME)
    for facts in (NodeFacts(name="mac"), NodeFacts(chip="M4", model="mini"), NodeFacts(), NodeFacts(name="mac2")):
        replica.apply(NodeGatheredInfo("aa", facts))
    assert replica.nodes["aa"] == NodeFacts(name="mac2", chip="M4", model="mini")
    replica.apply(NodeTimedOut("aa"))
    assert replica.nodes == {}


@pytest.mark.parametrize(
    ("read_as", "message"),
    [
        (decoding.log_entry, {}),
        (decoding.log_entry, {"event": {"A": {}, "B": {}}}),
        (decoding.log_entry, {"event": {"A": {"event_id": "e"}}, "origin_idx": True}),
        (decoding.log_entry, {"event": {"A": {"event_id": "e"}}, "origin_idx": 1, "origin": 5}),
        (decoding.log_entry, {"event": {"A": {"event_id": "e"}}, "origin_idx": 1, "origin": "o", "session": []}),
        (decoding.election_message, {"clock": "one"}),
        (decoding.download_command, {"command": {"StartDownload": {"target_node_id": "x"}}}),
        (decoding.state, {"lastEventAppliedIdx": 3}),
        (decoding.state, {}),
    ],
)
def test_message_without_a_needed_field_is_unreadable(read_as: Any, message: Any) -> None:
    with pytest.raises(Unreadable):
        read_as(message)


def test_an_unreadable_event_changes_nothing() -> None:
    assert decoding.event("TaskCreated", {"event_id": "e"}) == OtherEvent("TaskCreated")
    assert decoding.event("SomethingNew", {}) == OtherEvent("SomethingNew")
    with pytest.raises(Unreadable):
        decoding.parse(b"[]")
    with pytest.raises(ValueError, match="Expecting"):
        decoding.parse(b"{")


def test_card_in_camel_case_covers_ours() -> None:
    shape = supported()[0].table.shape
    ours = {"model_id": "m", "tasks": ["a"], "storage_size": {"in_bytes": 5}, "uses_cfg": False}
    theirs = shape("ModelCard", {"modelId": "m", "tasks": ["a"], "storageSize": {"inBytes": 5}, "new": 1})
    assert decoding.covers(theirs, ours)
    assert not decoding.covers({**theirs, "tasks": ["a", "b"]}, ours)
    assert not decoding.covers({**theirs, "tasks": "a"}, ours)
    assert not decoding.covers({**theirs, "storage_size": 5}, ours)
    assert not decoding.covers(None, ours)


# ── a task as a question ──


def test_a_captured_task_becomes_a_question() -> None:
    """The whole conversation with its tool calls comes in `chat_template_messages`."""
    log = log_of("03d_multi_turn_tool_result")
    task = next(body["TaskCreated"]["task"]["TextGeneration"] for body in log.values() if "TaskCreated" in body)
    question = request("t", "qwen", task["task_params"], ImageStore())
    assert (question.model, question.id) == ("qwen", "t")
    assert [message.role for message in question.messages] == [
        entry["role"] for entry in task["task_params"]["chat_template_messages"]
    ]
    assert any(message.tool_calls for message in question.messages)
    assert any(message.role == "tool" and message.tool_call_id for message in question.messages)


def ask(**params: Any) -> Any:
    defaults: dict[str, Any] = {"chat_template_messages": [{"role": "user", "content": "hi"}], "image_hashes": {}}
    return request("t", "m", {**defaults, **params}, ImageStore())


def test_everything_that_a_client_may_set_arrives() -> None:
    question = ask(
        temperature=0,
        top_k=40,
        top_p=0.9,
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        seed=7,
        max_output_tokens=9,
        stop="END",
        min_p=0,
        enable_thinking=False,
        tools=[
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"a": 1}}},
            {"x": 1},
            5,
        ],
    )
    assert question.sampling == Sampling(0.0, 40, 0.9, 0.0, 1.1, 0.2, 0.1, seed=7)
    assert (question.max_tokens, question.stop, question.thinking) == (9, ("END",), False)
    assert question.tools == (Tool("f", "d", {"a": 1}),)
    assert ask(stop=["a", "b"]).stop == ("a", "b")
    assert ask(reasoning_effort="high").thinking is True
    assert ask(reasoning_effort="none").thinking is False
    assert ask().thinking is None


def test_a_short_conversation_without_a_template_form() -> None:
    question = ask(chat_template_messages=None, instructions="be brief", input=[{"role": "user", "content": "hi"}])
    assert question.messages == (Message("system", "be brief"), Message("user", "hi"))


def test_assistant_messages_keep_reasoning_and_tool_calls() -> None:
    past = {
        "role": "assistant",
        "content": "",
        "reasoning_content": "hm",
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"a": 1}}}, {"id": "2"}],
    }
    (message,) = ask(chat_template_messages=[past]).messages
    assert message.reasoning == "hm"
    assert message.tool_calls == (ToolCall("1", "f", '{"a": 1}'), ToolCall("2", "", "{}"))
    (developer,) = ask(chat_template_messages=[{"role": "developer", "content": ["plain", {"text": "parts"}]}]).messages
    assert (developer.role, developer.content) == ("system", "plain\nparts")


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"chat_template_messages": [{"role": "oracle", "content": "x"}]}, "role 'oracle'"),
        ({"chat_template_messages": [{"role": "user", "content": [{"type": "image"}]}]}, "did not come"),
    ],
)
def test_what_cannot_be_honoured_is_refused(params: Any, named: str) -> None:
    with pytest.raises(UsageError) as refused:
        ask(**params)
    assert named in refused.value.sentence
    assert refused.value.hint


PICTURE = b"\xff\xd8 a picture"
TEXT = base64.b64encode(PICTURE).decode()
HASH = hashlib.sha256(TEXT.encode()).hexdigest()


def with_image(store: ImageStore) -> Any:
    messages = [{"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image"}]}]
    return request("t", "m", {"chat_template_messages": messages, "image_hashes": {"0": HASH}}, store).messages[0]


def test_images_come_in_parts_ahead_of_their_task() -> None:
    store = ImageStore()
    for number in (1, 0):
        store.take(
            InputChunkReceived("c", 0, number, 2, TEXT[number * 10 : (number + 1) * 10] if number == 0 else TEXT[10:])
        )
    assert with_image(store).images == (Image(PICTURE, "image/jpeg", at=4),)
    assert with_image(store).content == "look"


def test_an_image_that_came_before_us_is_asked_for() -> None:
    with pytest.raises(UsageError, match="before this board joined"):
        with_image(ImageStore())


def test_images_do_not_fill_the_memory() -> None:
    store = ImageStore(limit=1000)
    for number in range(50):
        store.take(InputChunkReceived(f"half{number}", 0, 0, 2, "x" * 90))
        store.take(InputChunkReceived(f"c{number}", 0, 0, 1, f"{number:0>90}"))
    held = [
        digest for digest in (hashlib.sha256(f"{n:0>90}".encode()).hexdigest() for n in range(50)) if store.find(digest)
    ]
    assert 1 <= len(held) <= 11


def test_invalid_image_data_is_refused() -> None:
    store = ImageStore()
    store.take(InputChunkReceived("c", 0, 0, 1, "%%%"))
    messages = [{"role": "user", "content": [{"type": "image"}]}]
    hashes = {"0": hashlib.sha256(b"%%%").hexdigest()}
    with pytest.raises(UsageError, match="not base64"):
        request("t", "m", {"chat_template_messages": messages, "image_hashes": hashes}, store)
    unknown = request("t", "m", {"chat_template_messages": messages, "images": ["AAAA"]}, store)
    assert unknown.messages[0].images[0].media_type == "application/octet-stream"
