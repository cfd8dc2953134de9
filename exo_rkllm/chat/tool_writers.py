"""How models write tool calls, from the other side than `formats`: calls of a conversation as the family's own text.

They are shown to models whose template says nothing of tools, as an example and for the calls of earlier answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

# The calls of one answer, each a name and its arguments, as that answer's text.
Writer: TypeAlias = Callable[[Sequence[tuple[str, Mapping[str, Any]]]], str]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def arguments_value(text: str) -> Any:
    """Templates walk over the arguments, so they get the object; what is none stays text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def json_calls(start: str, end: str, arguments: str = "arguments") -> Writer:
    """One JSON object a call, between tags."""

    def write(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        return "\n".join(f"{start}{_json({'name': name, arguments: values})}{end}" for name, values in calls)

    return write


def write_list(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Phi 4 mini: a list of all calls."""
    return f"<|tool_call|>{_json([{'name': name, 'arguments': values} for name, values in calls])}<|/tool_call|>"


def write_xml(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Qwen 3.5 and Qwen 3 Coder: a tag a parameter, with the value between lines of its own."""
    return "\n".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(f"<parameter={key}>\n{_plain(value)}\n</parameter>\n" for key, value in values.items())
        + "</function>\n</tool_call>"
        for name, values in calls
    )


def write_elements(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """MiniCPM 5: elements with names as attributes."""
    return "\n".join(
        f'<function name="{name}">'
        + "".join(f'<param name="{key}">{_plain(value)}</param>' for key, value in values.items())
        + "</function>"
        for name, values in calls
    )


def write_deepseek(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    inside = "\n".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{_json(values)}\n```<｜tool▁call▁end｜>"
        for name, values in calls
    )
    return f"<｜tool▁calls▁begin｜>{inside}<｜tool▁calls▁end｜>"


def write_python(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """MiniCPM 3 and 4: Python calls in a fence."""
    lines = "\n".join(
        f"{name}({', '.join(f'{key}={value!r}' for key, value in values.items())})" for name, values in calls
    )
    return f"<|tool_call_start|>\n```python\n{lines}\n```\n<|tool_call_end|>"


def write_line(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """GLM 4: the name on a line, then the arguments. It makes one call an answer."""
    name, values = calls[0]
    return f"{name}\n{_json(values)}"


def write_gemma(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    return "".join(f"<|tool_call>call:{name}{_gemma(values)}<tool_call|>" for name, values in calls)


def _gemma(value: Any) -> str:
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_gemma(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_gemma, value)) + "]"
    return _json(value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)
