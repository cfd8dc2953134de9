"""What the helper process does with a grammar: takes, forces, steps and completes, within limits."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from exo_rkllm.errors import AnswerInvalid, UsageError
from exo_rkllm.structure import matching

pytest.importorskip("llguidance")

PAIR = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["red", "green"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


class Follower:
    """One answer, as the daemon's side asks for it."""

    def __init__(self, kind: str, value: Any = "") -> None:
        self.key = f"{kind} {value} {time.monotonic()}"
        text = value if isinstance(value, str) else json.dumps(value)
        self.taken = ""
        self.first = self.do("feed", "", [kind, text])

    def do(self, operation: str, text: str = "", structure: list[str] | None = None) -> dict[str, Any]:
        before = self.taken if structure else len(self.taken.encode())
        answer: dict[str, Any] = json.loads(matching.match(operation, self.key, structure, before, text))
        self.taken += answer["taken"] + answer["forced"]
        return answer

    def feed(self, text: str) -> tuple[str, str, str]:
        answer = self.do("feed", text)
        return answer["taken"], answer["rest"], answer["forced"]


def test_text_is_taken_up_to_the_first_character_that_cannot_belong() -> None:
    pair = Follower("schema", PAIR)
    assert pair.feed('{"a": 12x') == ('{"a": 12', "x", "")
    assert pair.feed(', "b"') == (', "b"', "", "")
    assert pair.feed("=") == ("", "=", ':"')
    assert pair.do("feed", 'red"}')["complete"]
    assert pair.feed("more") == ("", "more", "")


def test_character_of_several_bytes_is_taken_whole_or_not_at_all() -> None:
    choice = Follower("choice", ["größe", "grün"])
    assert choice.feed("grä") == ("gr", "ä", "")
    assert choice.feed("ö") == ("ö", "", "")
    assert choice.do("force")["forced"] == "ße"


def test_line_breaks_inside_a_string_are_escaped() -> None:
    text = Follower("schema", {"type": "string"})
    assert text.feed('"two\nlines\tand more"') == ('"two\\nlines\\tand more"', "", "")
    assert json.loads(text.taken) == "two\nlines\tand more"
    assert Follower("regex", "a+").feed("a\n") == ("a", "\n", ""), "only in JSON"


def test_wrong_spelling_is_mended_where_it_stands() -> None:
    free = Follower("schema", {"type": "array", "items": {"type": ["boolean", "null", "string"]}})
    assert free.feed('[True, False, None, "None"]') == ('[true, false, null, "None"]', "", "")
    pair = Follower("schema", PAIR)
    assert pair.feed('{"A": 1, "B": "Green"}') == ('{"a": 1, "b": "green"}', "", "")
    assert Follower("choice", ["straße", "weg"]).feed("ßt")[0] == ""
    assert Follower("choice", ["yes", "no"]).feed("Yes.") == ("yes", ".", "")
    assert Follower("choice", ["yes", "no"]).feed("Yonder")[0] == ""


def test_forced_text_ends_where_there_is_a_choice() -> None:
    pair = Follower("schema", PAIR)
    assert pair.do("force")["forced"] == '{"a":'
    assert pair.feed("none") == ("", "none", "")
    assert pair.do("step")["forced"] == '0,"b":"'
    assert pair.do("step")["forced"] == 'green"}'


@pytest.mark.parametrize(
    ("kind", "value", "begun", "whole"),
    [
        ("schema", PAIR, "", '{"a":0,"b":"red"}'),
        ("schema", {"type": "array", "items": {"type": "string"}}, '["on', '["on"]'),
        ("schema", {"type": "string", "pattern": "^[a-z]*-[0-9]{2}$"}, '"ab', '"ab-00"'),
        ("json", "", '{"deep": {"er": [1', '{"deep": {"er": [1]}}'),
        ("regex", "a*b{3}", "aa", "aabbb"),
        ("gbnf", 'root ::= "x" [0-9]+ "km"', "x1", "x1km"),
    ],
)
def test_completion_is_short(kind: str, value: Any, begun: str, whole: str) -> None:
    answer = Follower(kind, value)
    assert answer.feed(begun)[1] == ""
    assert answer.do("finish")["may_end"]
    assert answer.taken == whole


def test_form_without_an_end_has_no_completion() -> None:
    endless = {"type": "object", "properties": {"in": {"$ref": "#"}}, "required": ["in"]}
    with pytest.raises((AnswerInvalid, UsageError)):
        Follower("schema", endless).do("finish")


def test_calls_go_on_with_one_of_the_tools() -> None:
    calls = [['look", "arguments": ', PAIR], ['wait", "arguments": ', {"type": "object"}]]
    answer = Follower("calls", calls)
    assert answer.feed("sleep")[:2] == ("", "sleep")
    assert answer.feed("w") == ("w", "", "")
    assert answer.do("force")["forced"] == 'ait","arguments":'.replace('","', '", "').replace('":', '": ') + "{"
    assert answer.do("feed", "}")["complete"]
    assert Follower("calls", [["", PAIR]]).do("feed", '{"a": 1, "b": "red"}')["complete"]


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("regex", "(?=a)b", "look-around"),
        ("regex", "(", "unclosed"),
        ("gbnf", "root ::= nothing", "nothing"),
        ("schema", {"type": "what"}, "type"),
        ("schema", "{", "EOF"),
        ("schema", {"enum": []}, "empty"),
    ],
)
def test_form_that_is_none_is_refused_with_what_is_wrong(kind: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Follower(kind, value)


def test_hostile_forms_are_bounded() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"items": deep}
    ways = [{"properties": {f"a{n}": {"pattern": f"^(x|y)*z{{{n},9}}$"}}} for n in range(40)]
    for schema in (
        {"type": "string", "pattern": "(a|aa|aaa|b){1,1000}(c|d){1,1000}[a-z]{1,500}x"},
        {"allOf": [{"anyOf": ways} for _ in range(12)]},
        '{"items": ' * 5000 + "{}" + "}" * 5000,
    ):
        began = time.monotonic()
        with pytest.raises(UsageError, match="cannot be held to this form"):
            Follower("schema", schema).feed('"' + "a" * 5000)
        assert time.monotonic() - began < 2


def test_process_that_forgot_an_answer_is_told_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "MOST_ANSWERS", 2)
    first = Follower("schema", PAIR)
    first.feed('{"a": 1')
    others = Follower("json"), Follower("json")
    assert len(others) == 2, "they push it out"
    assert matching.match("feed", first.key, None, len(first.taken), ",") == "null"
    again = json.loads(matching.match("feed", first.key, ["schema", json.dumps(PAIR)], first.taken, ', "b"'))
    assert again["taken"] == ', "b"'
    assert matching.match("feed", first.key, None, 3, ",") == "null", "it is elsewhere in the answer"
