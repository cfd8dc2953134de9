"""Reading calls: what each way of writing allows, and that anything else is a ValueError and nothing worse."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_rkllm.backends.base import Tool
from exo_rkllm.chat.formats import TOOLS
from tests.chat.conversations import CLOCK, WEATHER

GOOD: dict[str, dict[str, list[tuple[str, object]]]] = {
    "hermes": {
        '{"name": "x", "arguments": {"a": "line\nbreak"}}': [("x", {"a": "line\nbreak"})],
        '{"name": "x"}': [("x", {})],
        '{"name": "x", "arguments": ""}': [("x", {})],
    },
    "llama": {
        '{"name": "x", "parameters": {"a": 1}}; {"name": "y", "parameters": {}}': [("x", {"a": 1}), ("y", {})],
        '{"type": "function", "function": {"name": "x", "parameters": {"a": null}}}': [("x", {"a": None})],
    },
    "qwen-xml": {
        "<function=x>\n</function>": [("x", {})],
        "<function=x>\n<parameter=a>\n\ntwo\nlines\n\n</parameter>\n</function>": [("x", {"a": "\ntwo\nlines\n"})],
        "<function=x>\n<parameter=a>\n1\n<parameter=b>\ntrue\n</parameter>": [("x", {"a": 1, "b": True})],
        '{"name": "x", "arguments": {}}': [("x", {})],
    },
    "minicpm-xml": {
        ' name="x"><param name="a"><![CDATA[1 < 2]]></param><param name="b">[1]</param>': [
            ("x", {"a": "1 < 2", "b": [1]}),
        ],
    },
    "deepseek": {
        '<｜tool▁call▁begin｜>function<｜tool▁sep｜>x\n```json\n{"a": 1}\n```<｜tool▁call▁end｜>'
        "\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>y\n```json\n{}\n```<｜tool▁call▁end｜>": [
            ("x", {"a": 1}), ("y", {}),
        ],
    },
    "minicpm": {
        "```python\nx(a=1, b=[True, None], c={'d': -1.5})\n```": [("x", {"a": 1, "b": [True, None], "c": {"d": -1.5}})],
        "[x(), mod.y(a='b')]": [("x", {}), ("mod.y", {"a": "b"})],
    },
    "glm": {"x\n{}": [("x", {})], "x\n```python\ntool_call(a=1)\n```": [("x", {"a": 1})]},
    "gemma": {
        "call:x{}": [("x", {})],
        'call:x{a:<|"|>say "hi", {you}<|"|>,b:[1,-2.5,true,null],c:{d:{},<|"|>e f<|"|>:<|"|><|"|>}}': [
            ("x", {"a": 'say "hi", {you}', "b": [1, -2.5, True, None], "c": {"d": {}, "e f": ""}}),
        ],
        "call:get-time.now{zone: north pole }": [("get-time.now", {"zone": "north pole"})],
    },
}  # fmt: skip
BAD: dict[str, list[str]] = {
    "hermes": [
               "", "x", "[]", "{}", "3", '{"name": 3}', '{"name": " "}', '{"name": "x", "arguments": 3}',
               '{"name": "x", "arguments": "3"}', '{"name": "x", "arguments": "{"}', '{"name": "x"} and more',
               "[" * 99999,
               '{"name": "x", "arguments": "' + "[" * 99999 + '"}'],
    "qwen-xml": ["", "x", "<function=>", "<function>"],
    "minicpm-xml": ["", ">x", ' name=""><param', ' name="x"'],
    "deepseek": [
                 "", "function<｜tool▁sep｜>x",
                 "function<｜tool▁sep｜>x\n```json\n[]\n```",
                 "function<｜tool▁sep｜>x\n```json\n{\n```"],
    "minicpm": ["", "x", "x(1)", "x(**a)", "x(a=b)", "x(a=open('/etc/passwd'))", "x(a=1);y = 2", "import os",
                "x(a={1, 2})",
                "x(a=b'c')", "(lambda: 1)()", "x(" * 500, "x(a='" + "a" * 70_000 + "')", "x(a=" + "-" * 60_000 + "1)",
                "[]", "x(a={[]: 1})", "x(\0)"],
    "glm": ["", "x", "x\n[]", "x\ny", "x\ny(1)"],
    "gemma": ["", "call:x", "call:x{", "call:x{a}", "call:x{a:}", "call:x{a:[1}", 'call:x{a:<|"|>b}',
              "call:x{a:1 b:{}}c}",
              "call:x{a:{b:1}", "call:x{a:[1 }", "call:x{" + "a:{" * 50_000 + "}" * 50_000 + "}", "x{}", "call:x{}y{}",
              'call:x{a:<|"|>b<|"|>c:1}'],
}  # fmt: skip


@pytest.mark.parametrize(("way", "text"), [(way, text) for way, texts in GOOD.items() for text in texts])
def test_reader_accepts_every_form_of_its_calls(way: str, text: str) -> None:
    made = TOOLS[way].read(text, (WEATHER, CLOCK))
    assert [(one.name, json.loads(one.arguments)) for one in made] == GOOD[way][text]


@pytest.mark.parametrize(("way", "text"), [(way, text) for way, texts in BAD.items() for text in texts])
def test_reader_refuses_what_is_no_call(way: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        TOOLS[way].read(text, ())


PARTS = st.lists(
    st.sampled_from(["call:", "x", "{", "}", "[", "]", ":", ",", '"', "'", '<|"|>', "(", ")", "=", "1", "\n",
                     "```python\n",
                     "<function=", "<parameter=", ">", "</parameter>", ' name="', "name",
                     '{"name": "x"', "<｜tool▁sep｜>", "```", "\\"]),
    max_size=20,
)  # fmt: skip


@given(st.sampled_from(sorted(TOOLS)), PARTS.map("".join) | st.text(max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_text_is_a_call_or_a_value_error(way: str, text: str) -> None:
    try:
        made = TOOLS[way].read(text, (Tool("x", parameters={"properties": 3}),))
    except ValueError:
        return
    assert made
    for one in made:
        assert one.name
        assert isinstance(json.loads(one.arguments), dict)
