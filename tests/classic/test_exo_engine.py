"""The same engine behind current exo's pair of classes, in a runner that works as exo's; the model is simulated."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.errors import ModelNotFound, NotSupported
from exo_rkllm.exo_engine import ALL_TASKS, NpuBuilder
from simulator import encoder_file
from tests.classic.current import (
    EXO,
    Cancels,
    ErrorChunk,
    ImageChunk,
    ImageGeneration,
    Params,
    PrefillProgressChunk,
    Runner,
    TokenChunk,
    ToolCallChunk,
    instance,
    task,
)
from tests.exo_cluster import captured
from tests.exo_cluster.test_dashboard import bitmap
from tests.simulated import build

Add = Callable[..., str]
Start = Callable[..., Runner]

QWEN = '[chat]\nfamily = "qwen3"\ntemplate = "chat.jinja"\n'
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def seeing(add: Add, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that names the colour of what it is shown."""
    vision = {"vision": True, "embedding_length": 64, "reply": "{sees} what is this?"}
    add("seer", card='[vision]\nfile = "m.rknn"\n', **vision)
    encoder_file.write(folder / "models/seer/m.rknn", encoder_file.SimEncoder())
    monkeypatch.setenv("EXO_RKLLM_RUNTIME_ENCODER_LIBRARY", str(build() / "rknn-2.3.2/librknnrt.so"))


def picture_of(colour: bytes) -> dict[str, Any]:
    """exo's parameters of a question about one picture."""
    content = [{"type": "image"}, {"type": "text", "text": "what is this?"}]
    images = [bitmap(colour).partition(",")[2]]
    return {"images": images, "chat_template_messages": [{"role": "user", "content": content}]}


@pytest.fixture
def cancels() -> Cancels:
    return Cancels()


@pytest.fixture
def start(add: Add, cancels: Cancels) -> Iterator[Start]:
    """`start("rkllm/parrot", reply=...)` makes the model and exo's runner of it."""
    builders: list[NpuBuilder] = []

    def begin(name: str, **situation: Any) -> Runner:
        add(name.rpartition("/")[2], **{"reply": "you said {user}", "decode_tps": 200, **situation})
        builders.append(NpuBuilder(cancels, EXO))
        return Runner(builders[-1], name)

    yield begin
    for builder in builders:
        builder.close()
        builder.close()


@pytest.mark.seed("4.3", "alternative: separate runner types")
def test_tasks_of_exo_are_answered_each_with_its_own(start: Start) -> None:
    one, two = start("rkllm/parrot").work(task("one", "red apples"), task("two", "green pears"))
    assert "red apples" in one.text
    assert "green pears" in two.text
    assert one.complete
    assert two.complete
    last = one.chunks[-1]
    assert isinstance(last, TokenChunk)
    assert last.finish_reason == "stop"
    assert last.usage["completion_tokens"] > 0
    assert last.stats["generation_tokens"] == last.usage["completion_tokens"]
    assert isinstance(one.chunks[0], PrefillProgressChunk)
    assert {chunk.model for chunk in one.chunks} == {"rkllm/parrot"}, "in the name that exo asked for"


def test_token_limit_ends_an_answer_with_reason_length(start: Start) -> None:
    (heard,) = start("parrot").work(task("one", "a b c d e f g", max_output_tokens=3))
    assert [one.finish_reason for one in heard.chunks if isinstance(one, TokenChunk)][-1] == "length"


def test_thoughts_and_tool_calls_are_chunks_of_their_own(start: Start) -> None:
    reply = "<think>well now</think>It rains."
    (heard,) = start("thinker", reply=reply, card=QWEN).work(task("one", "how is it", enable_thinking=True))
    assert heard.thinking.strip() == "well now"
    assert heard.text.strip() == "It rains."
    call = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
    (heard,) = start("caller", rules=(("wet", call),), card=QWEN).work(task("two", "is it wet?", tools=[WEATHER]))
    (called,) = [one for one in heard.chunks if isinstance(one, ToolCallChunk)]
    assert [(one["name"], one["arguments"]) for one in called.tool_calls] == [("weather", '{"city": "Oslo"}')]
    assert heard.chunks[-1] is called
    assert heard.complete


@pytest.mark.parametrize("what", ["one", ALL_TASKS])
def test_a_cancelled_task_ends_and_the_next_one_is_answered(start: Start, cancels: Cancels, what: str) -> None:
    runner = start("parrot")
    (heard,) = runner.submit(task("one", "word " * 500))
    while not heard.text:
        runner.turn()
    cancels.send(what)
    runner.work()
    assert heard.cancelled
    assert not heard.complete
    (again,) = runner.work(task("two", "again"))
    assert "again" in again.text


def test_a_cancel_may_come_before_its_task(start: Start, cancels: Cancels) -> None:
    runner = start("parrot")
    cancels.send("late")
    runner.turn()
    (heard,) = runner.work(task("late", "word " * 500))
    assert heard.cancelled


WRONG = [
    (task("one", "word " * 5000), "context"),
    (task("one", "x", input=[{"role": "clown", "content": "x"}]), "clown"),
]


@pytest.mark.parametrize(("asked", "says"), WRONG)
def test_what_is_wrong_with_a_task_is_its_answer_and_ends_nothing_else(start: Start, asked: Any, says: str) -> None:
    """exo shows nothing of an error."""
    runner = start("parrot")
    (heard,) = runner.work(asked)
    assert " did not answer] " in heard.text
    assert says in heard.text
    assert heard.complete
    (again,) = runner.work(task("two", "again"))
    assert "again" in again.text


@pytest.mark.parametrize(("asked", "says"), WRONG)
def test_errors_stay_errors_where_the_owner_wants_them(
    start: Start, asked: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXO_RKLLM_CLUSTER_ERRORS", "error")
    (heard,) = start("parrot").work(asked)
    (chunk,) = [one for one in heard.chunks if isinstance(one, ErrorChunk)]
    assert says in chunk.error_message
    assert heard.complete


def test_what_a_model_cannot_do_has_no_effect(start: Start) -> None:
    """As exo's endpoints ask: the dashboard wants thoughts of every model, and others seeds and tools."""
    runner = start("parrot")
    asked = [task("min_p", "x", min_p=0.2, seed=3)]
    for number, request in enumerate(captured.requests()):
        params = {name: value for name, value in request["task_params"].items() if name != "model"}
        asked.append(task(str(number), "", **params))
    for heard in runner.work(*asked):
        assert heard.text, heard.chunks
        assert not [one for one in heard.chunks if isinstance(one, ErrorChunk)]


@pytest.mark.parametrize("stream", [False, True])
def test_a_library_that_crashes_costs_one_answer(start: Start, stream: bool) -> None:
    runner = start("fragile", faults=("segv@token:5",), reply="one two three four five six seven")
    (heard,) = runner.work(task("one", "x", stream=stream))
    last = heard.chunks[-1]
    assert isinstance(last, ErrorChunk) == stream, "an answer that was read as it came is told to be no whole one"
    assert "SIGSEGV" in (last.error_message if isinstance(last, ErrorChunk) else heard.text)
    assert last.finish_reason == ("error" if stream else "length")  # type: ignore[attr-defined]
    (short,) = runner.work(task("two", "x", max_output_tokens=3))
    assert short.text


def test_a_picture_that_is_asked_of_a_text_model_is_refused_as_exo_expects_it(start: Start) -> None:
    (heard,) = start("parrot").work(ImageGeneration("one", Params(prompt="a cat")))
    assert isinstance(heard.chunks[-1], ImageChunk)
    assert "not with images" in (heard.chunks[-1].error_message or "")


def test_pictures_of_a_task_are_seen(
    start: Start, add: Add, tmp_path: Path, cancels: Cancels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """exo's worker puts the images themselves into a task, and marks their places in the messages."""
    seeing(add, tmp_path, monkeypatch)
    builder = NpuBuilder(cancels, EXO)
    try:
        (heard,) = Runner(builder, "rkllm/seer").work(task("one", "", **picture_of(b"\0\0\xff")))
    finally:
        builder.close()
    assert heard.text == "I see blue. what is this?"
    (blind,) = start("parrot").work(task("two", "", **picture_of(b"\0\0\xff")))
    assert "parrot does not see images" in blind.text


def test_no_prompt_is_computed_for_another_node(start: Start) -> None:
    with pytest.raises(NotSupported, match="KV cache"):
        start("parrot").engine.serve_prefill(None, io.BytesIO())


def test_a_model_is_never_cut(cancels: Cancels) -> None:
    with pytest.raises(NotSupported, match="on 2 nodes"):
        NpuBuilder(cancels, EXO).connect(instance("parrot", nodes=2))


def test_missing_model_is_named_and_leaves_no_thread(add: Add, cancels: Cancels) -> None:
    add("parrot")
    before = threading.active_count()
    builder = NpuBuilder(cancels, EXO)
    list(builder.load(instance("llama-9")))
    with pytest.raises(ModelNotFound, match="llama-9"):
        builder.build()
    assert threading.active_count() == before


def test_without_exo_it_says_what_joins_a_cluster(cancels: Cancels) -> None:
    with pytest.raises(NotSupported, match="No current exo") as caught:
        NpuBuilder(cancels)
    assert "exo-rkllm serve" in caught.value.hint
