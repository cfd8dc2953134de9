"""JSON answers as models write them: fences, chatter, and pieces cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_rkllm.api.response_format import ResponseFormat, response_format_of
from exo_rkllm.errors import AnswerInvalid

PLAIN = '{"a": "``` is\\n fine", "b": [1,\n 2]}'
WRITTEN = (
    PLAIN,
    f"```json\n{PLAIN}\n```",
    f"```\n{PLAIN}\n```\nThat is it.",
    f"\n\n {PLAIN}\n\n",
    f"```json\n{PLAIN}\n",
)


@given(st.sampled_from(WRITTEN), st.lists(st.integers(1, 12), min_size=1, max_size=80))
def test_json_comes_out_wherever_the_fence_is_cut(written: str, sizes: list[int]) -> None:
    shape = ResponseFormat("json")
    told, rest = "", written
    for size in sizes:
        told, rest = told + shape.feed(rest[:size]), rest[size:]
    told += shape.feed(rest)
    told += shape.end(has_calls=False)
    assert told.strip() == PLAIN


@pytest.mark.parametrize(
    ("said", "says"), [("Sure! {}", "not the JSON"), ("[1]", "not an object"), ("", "not the JSON")]
)
def test_answer_that_is_no_object_is_an_error(said: str, says: str) -> None:
    shape = ResponseFormat("json")
    shape.feed(said)
    with pytest.raises(AnswerInvalid, match=says):
        shape.end(has_calls=False)


def test_tool_call_instead_of_an_answer_is_not_checked() -> None:
    assert ResponseFormat("json").end(has_calls=True) == ""


def test_text_format_changes_nothing() -> None:
    shape = response_format_of({"type": "text"})
    assert not shape.enabled and shape.check("``` anything", ()) == "``` anything" and shape.end(has_calls=False) == ""
