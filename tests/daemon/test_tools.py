"""Tools on the NPU's engine, through the whole daemon: the template shows them, and the answer comes as a call."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.running import House

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TEMPLATE = """{%- if tools -%}<|im_start|>system
<tools>{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</tools><|im_end|>
{% endif -%}
{%- for one in messages -%}<|im_start|>{{ one.role }}
{{ one.content }}<|im_end|>
{% endfor -%}
<|im_start|>assistant
"""
CARD = 'name = "Qwen"\n[weights]\nfile = "m.rkllm"\n[chat]\nfamily = "qwen"\ntemplate = "chat.jinja"\n'
TALK = {"messages": [{"role": "user", "content": "please call look for me"}]}
FUNCTION = {"type": "function", "function": {"name": "look", "parameters": PARAMETERS}}


@pytest.mark.parametrize(
    ("path", "body", "called"),
    [
        (
            "/v1/chat/completions",
            {**TALK, "tools": [FUNCTION]},
            lambda said: said["choices"][0]["message"]["tool_calls"][0]["function"]["name"],
        ),
        (
            "/api/chat",
            {**TALK, "stream": False, "tools": [FUNCTION]},
            lambda said: said["message"]["tool_calls"][0]["function"]["name"],
        ),
        (
            "/v1/messages",
            {**TALK, "max_tokens": 99, "tools": [{"name": "look", "input_schema": PARAMETERS}]},
            lambda said: next(block["name"] for block in said["content"] if block["type"] == "tool_use"),
        ),
        (
            "/v1/responses",
            {"input": TALK["messages"], "tools": [{"type": "function", "name": "look", "parameters": PARAMETERS}]},
            lambda said: next(item["name"] for item in said["output"] if item["type"] == "function_call"),
        ),
    ],
)
def test_a_tool_is_called_on_the_npu(
    board_house: House,
    make_model: Callable[..., Path],
    path: str,
    body: dict[str, Any],
    called: Callable[[dict[str, Any]], str],
) -> None:
    board_house.add("qwen", CARD)
    folder = board_house.models / "qwen"
    make_model(reply="I call nothing.").rename(folder / "m.rkllm")
    (folder / "chat.jinja").write_text(TEMPLATE)
    address = board_house.start().status()["listening"][0]
    request = urllib.request.Request(f"http://{address}{path}", json.dumps({"model": "qwen", **body}).encode())
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - our own daemon
        said = json.load(response)
    assert called(said) == "look", said
