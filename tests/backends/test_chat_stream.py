"""Server-sent events however they are cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_rkllm.backends.base import Finish, GenerationEvent, Logprobs, Piece, TokenLogprob
from exo_rkllm.backends.chat_stream import LONGEST, ChatAnswer, error_words
from exo_rkllm.errors import ExoRkllmError, RunError

KEYS = ["choices", "delta", "content", "tool_calls", "function", "usage", "timings", "error", "index", "id"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(10**400) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


def chunk(**delta: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta}]}, ensure_ascii=False).encode() + b"\n\n"


def read(*parts: bytes) -> tuple[list[Piece], list[GenerationEvent], ChatAnswer]:
    answer = ChatAnswer()
    pieces = [piece for part in parts for piece in answer.feed(part)]
    return pieces, list(answer.finish(0.0, 1.0)), answer


@given(st.lists(st.text(min_size=1), max_size=8), st.data())
def test_wherever_the_bytes_are_cut_the_words_are_the_same(texts: list[str], data: st.DataObject) -> None:
    whole = b"".join(chunk(content=text) for text in texts) + b"data: [DONE]\n\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    pieces, _, answer = read(*parts)
    assert [piece.text for piece in pieces] == texts
    assert answer.ended


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_an_error_of_ours_or_nothing(data: bytes) -> None:
    answer = ChatAnswer()
    try:
        list(answer.feed(b"data: " + data + b"\n"))
        list(answer.finish(0, 0))
    except ExoRkllmError:
        pass


@given(ANYTHING)
def test_any_json_is_an_error_of_ours_or_nothing(value: Any) -> None:
    answer = ChatAnswer()
    try:
        list(answer.feed(b"data: " + json.dumps(value).encode() + b"\n"))
        list(answer.finish(0, 0))
    except ExoRkllmError:
        pass


def test_bytes_that_are_no_text_cost_a_sign_and_not_the_answer() -> None:
    pieces, _, _ = read(b'data: {"choices": [{"delta": {"content": "a\xffb"}}]}\n')
    assert pieces[0].text == "a\ufffdb"


def test_a_line_without_an_end_is_not_waited_for() -> None:
    with pytest.raises(RunError, match="does not end"):
        read(b"data: " + b"x" * (LONGEST + 1))


def test_thoughts_answer_and_calls_are_told_apart() -> None:
    pieces, events, _ = read(
        b": a comment\n\nevent: x\n",
        chunk(reasoning_content="hm"),
        chunk(reasoning="hm"),
        chunk(content="yes"),
        chunk(tool_calls=[{"index": 0, "id": "c", "function": {"name": "look", "arguments": "{"}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": "}"}}, {"index": 1, "function": {"name": "go"}}]),
        b'data: {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}\n',
    )
    assert [(piece.kind, piece.text) for piece in pieces] == [("thinking", "hm"), ("thinking", "hm"), ("answer", "yes")]
    calls = [json.loads(event.text) for event in events if isinstance(event, Piece)]
    assert calls[0] == {"id": "c", "name": "look", "arguments": "{}"}
    assert (calls[1]["name"], calls[1]["id"][:5]) == ("go", "call_")
    assert isinstance(events[-1], Finish)
    assert events[-1].reason == "tool_calls"


def test_an_answer_without_its_end_is_known_for_one() -> None:
    assert not read(chunk(content="half"))[2].ended
    assert read(b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n')[2].ended, "some leave [DONE] out"


def test_figures_are_the_servers_where_it_has_some() -> None:
    usage = {"usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 20}}}
    _, events, _ = read(chunk(content="x"), b"data: " + json.dumps(usage).encode() + b"\n")
    finish = events[-1]
    assert isinstance(finish, Finish)
    assert (finish.usage.prompt, finish.usage.cached, finish.usage.completion) == (9, 9, 4), "never more than there are"
    _, events, _ = read(chunk(content="x"), chunk(content="y"))
    assert isinstance(events[-1], Finish)
    assert events[-1].usage.completion == 2, "counted where nobody tells"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"error": {"message": "no\n such. "}}, "no such"),
        ({"error": "gone"}, "gone"),
        ({"message": "bad"}, "bad"),
        ({"error": 5}, "no reason given"),
    ],
)
def test_a_servers_words_are_one_line(value: dict[str, Any], words: str) -> None:
    assert error_words(value) == words


def test_an_error_amid_the_answer_is_the_answers_error() -> None:
    with pytest.raises(RunError, match="out of memory"):
        read(b'data: {"error": {"message": "out of memory"}}\n')


@pytest.mark.parametrize("value", ["1e999", "-1e999", "NaN", "1" * 400, "-5", "true", '"7"', "null", "[]"])
def test_invalid_figure_counts_nothing(value: str) -> None:
    line = f'data: {{"choices": [], "usage": {{"prompt_tokens": {value}}}, "timings": {{"prompt_ms": {value}}}}}\n'
    _, (finish,), _ = read(line.encode())
    assert isinstance(finish, Finish)
    assert finish.usage.prompt == 0


def test_scores_of_the_servers_tokens_come_before_the_finish() -> None:
    other = {"token": "Ho", "logprob": -1.5, "bytes": [72, 111]}
    content = [{"token": "Hi", "logprob": -0.5, "top_logprobs": [other]}, {"token": 7, "logprob": "much"}]
    choice = {"delta": {"content": "Hi"}, "logprobs": {"content": content}}
    _, events, _ = read(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n")
    assert events[-2] == Logprobs((TokenLogprob("Hi", -0.5, (("Ho", -1.5),)), TokenLogprob("", 0.0)))
