"""How models write tool calls, and how they mark their reasoning: two tables, and a reader for each way of writing."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from exo_rkllm.backends.base import JSON, Tool, ToolCall
from exo_rkllm.chat import tool_writers as writers
from exo_rkllm.chat.toolcall import new_tool_call

HERMES = writers.json_calls("<tool_call>\n", "\n</tool_call>")
Reader: TypeAlias = Callable[[str, Sequence[Tool]], list[ToolCall]]
LONGEST_PYTHON = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Tags around what a model thinks."""

    open: str
    close: str


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One way of writing calls.

    `open` and `close` are the tags around them. `bare` formats have none at the start: `json` is an answer that
    begins as a call in JSON does, `line` one whose first line is a tool's name. `read` raises ValueError for text
    that is no call. `call_start` is what the prompt ends with when the model must call (a given tool or any). `write`
    is the reverse of `read`, tags included. `json_arguments`: the start of a given tool's call is followed by its
    arguments as a JSON object.
    """

    open: tuple[str, ...]
    close: tuple[str, ...]
    read: Reader
    call_start: Callable[[str], str]
    bare: str = ""
    write: writers.Writer = HERMES
    json_arguments: bool = True


# ── readers ──────────────────────────────────────────────────────────────────────────────────────


def _loads(text: str) -> Any:
    try:
        return json.loads(text, strict=False)  # models write line breaks into strings
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(value: Any) -> ToolCall:
    """One call as a JSON object: name, and the arguments under any of the words in use."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise ValueError("no name")
    for word in ("arguments", "parameters"):
        if word in value:
            arguments = value[word]
            break
    else:
        arguments = {}
    if isinstance(arguments, str):
        arguments = _loads(arguments) if arguments.strip() else {}
    if not isinstance(arguments, dict):
        raise ValueError("arguments are no object")  # noqa: TRY004 - it is the text that is wrong
    return new_tool_call(name.strip(), arguments)


def read_json(text: str, tools: Sequence[Tool]) -> list[ToolCall]:
    """One object, a list of them, or several objects with blanks, commas or semicolons between."""
    decoder = json.JSONDecoder(strict=False)
    calls: list[ToolCall] = []
    at = 0
    while at < len(text):
        if text[at] in " \t\r\n,;[]":  # a list may lack its end
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        calls.append(_object(value))
    if not calls:
        raise ValueError("empty")
    return calls


def _by_schema(text: str, schema: object) -> JSON:
    """A value written without quotes, read as the tool's schema wants it."""
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    kinds = kinds if isinstance(kinds, list | tuple) else [kinds]
    if "string" in kinds:
        return text
    try:
        value: JSON = _loads(text)
    except ValueError:
        words: Mapping[str, JSON] = {"true": True, "false": False, "null": None, "none": None}
        if text.strip().lower() in words:
            return words[text.strip().lower()]
        return text
    if kinds == [None] and not isinstance(value, dict | list | bool | type(None)):
        return value if isinstance(value, int | float) else text
    return value


def _schema(tools: Sequence[Tool], name: str, parameter: str) -> object:
    for tool in tools:
        if tool.name == name:
            properties = tool.parameters.get("properties")
            return properties.get(parameter) if isinstance(properties, Mapping) else None
    return None


FUNCTION = re.compile(r"<function=([^>\n]+)>(.*?)(?:</function>|(?=<function=)|\Z)", re.DOTALL)
PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)(?:\n?</parameter>|(?=<parameter=)|\Z)", re.DOTALL)


def read_xml(text: str, tools: Sequence[Tool]) -> list[ToolCall]:
    """`<function=NAME><parameter=KEY>` and the value as it is; Qwen3.5 and Qwen3-Coder."""
    calls = []
    for name, body in FUNCTION.findall(text):
        name = name.strip()  # noqa: PLW2901 - the same thing without blanks
        arguments = {
            key.strip(): _by_schema(value, _schema(tools, name, key.strip())) for key, value in PARAMETER.findall(body)
        }
        calls.append(new_tool_call(name, arguments))
    if not calls:
        return read_json(text, tools)  # the same family also writes the older form
    return calls


ELEMENT = re.compile(r'\s*name="([^"]+)"\s*>(.*)\Z', re.DOTALL)
PARAM = re.compile(r'<param name="([^"]+)">(?:<!\[CDATA\[(.*?)\]\]>|(.*?))</param>', re.DOTALL)


def read_elements(text: str, tools: Sequence[Tool]) -> list[ToolCall]:
    """` name="NAME"><param name="KEY">value</param>`, the rest of a `<function` element; MiniCPM5."""
    match = ELEMENT.match(text)
    if not match:
        raise ValueError("no call")
    return [
        new_tool_call(
            match[1],
            {
                key: _by_schema(cdata or plain, _schema(tools, match[1], key))
                for key, cdata, plain in PARAM.findall(match[2])
            },
        )
    ]


DEEPSEEK = re.compile(r"(?:function)?<｜tool▁sep｜>\s*([^\n]+)\n```(?:json)?\n(.*?)\n```", re.DOTALL)


def read_deepseek(text: str, tools: Sequence[Tool]) -> list[ToolCall]:
    calls = [_object({"name": name.strip(), "arguments": _loads(body)}) for name, body in DEEPSEEK.findall(text)]
    if not calls:
        raise ValueError("no call")
    return calls


def _python_call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
        raise ValueError("no call")  # noqa: TRY004 - it is the text that is wrong
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("arguments without names")
    arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
    try:
        json.dumps(arguments)
    except TypeError:
        raise ValueError("a value that JSON has not") from None
    return new_tool_call(ast.unparse(node.func), arguments)


def read_python(text: str, tools: Sequence[Tool]) -> list[ToolCall]:
    """`name(key=value)`, one a line or in a list, perhaps in a ```python fence. Parsed, never run."""
    text = re.sub(r"^\s*```(?:python|py)?\s*\n?|\n?\s*```\s*$", "", text).strip()
    if len(text) > LONGEST_PYTHON:
        raise ValueError("too long")
    try:
        body = ast.parse(text).body
        expressions = [node.value for node in body if isinstance(node, ast.Expr)]
        if not expressions or len(expressions) != len(body):
            raise ValueError("no call")
        if len(expressions) == 1 and isinstance(expressions[0], ast.List | ast.Tuple):
            expressions = list(expressions[0].elts)
        calls = [_python_call(one) for one in expressions]
    except (SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError("not Python") from error
    if not calls:
        raise ValueError("no call")
    return calls


def read_line(text: str, tools: Sequence[Tool]) -> list[ToolCall]:
    """The tool's name on a line, then JSON (GLM-4) or a Python call to `tool_call` in a fence (ChatGLM3)."""
    name, _, rest = text.strip().partition("\n")
    name, rest = name.strip(), rest.strip()
    if rest.startswith("{"):
        return [_object({"name": name, "arguments": _loads(rest)})]
    return [new_tool_call(name, one.arguments) for one in read_python(rest, tools)]


GEMMA = re.compile(r"call:([\w.-]+)\s*(\{.*\})\s*\Z", re.DOTALL)
QUOTE = '<|"|>'


def _gemma_value(text: str, at: int) -> tuple[JSON, int]:
    """Gemma's notation: strings between <|"|>, keys without quotes, the rest as in JSON."""
    if text.startswith(QUOTE, at):
        end = text.index(QUOTE, at + len(QUOTE))
        return text[at + len(QUOTE) : end], end + len(QUOTE)
    if text[at : at + 1] == "{":
        values: dict[str, JSON] = {}
        at += 1
        while text[at : at + 1] != "}":
            if text.startswith(QUOTE, at):
                key, at = _gemma_value(text, at)
                at = text.index(":", at) + 1
            else:
                colon = text.index(":", at)
                key, at = text[at:colon].strip(), colon + 1
                if set(key) & set('{}[]",'):
                    raise ValueError("no key")
            values[str(key)], at = _gemma_value(text, at)
            at = _past_comma(text, at, "}")
        return values, at + 1
    if text[at : at + 1] == "[":
        several: list[JSON] = []
        at += 1
        while text[at : at + 1] != "]":
            one, at = _gemma_value(text, at)
            several.append(one)
            at = _past_comma(text, at, "]")
        return several, at + 1
    match = re.compile(r"[^,}\]]+").match(text, at)
    if not match:
        raise ValueError("no value")
    word = match[0].strip()
    return _by_schema(word, None), match.end()


def _past_comma(text: str, at: int, end: str) -> int:
    if text[at : at + 1] == ",":
        return at + 1
    if text[at : at + 1] != end:
        raise ValueError("neither a comma nor an end")
    return at


def read_gemma(text: str, tools: Sequence[Tool]) -> list[ToolCall]:
    match = GEMMA.match(text.strip())
    if not match:
        raise ValueError("no call")
    try:
        arguments, end = _gemma_value(match[2], 0)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if end != len(match[2]):
        raise ValueError("text after the call")
    return [new_tool_call(match[1], arguments)]


def read_forced(tool_format: ToolFormat, text: str, tools: Sequence[Tool], start: str) -> list[ToolCall]:
    """A call that the prompt began with `start`, for a model that leaves its end out or goes on behind it.

    Whole arguments make a call, whatever follows them. Raises ValueError where they are not whole.
    """
    for end in ("", "}", ")", "\n```"):
        with suppress(ValueError):
            return tool_format.read(text + end, tools)
    _, end_of_arguments = json.JSONDecoder(strict=False).raw_decode(text, len(start))
    return tool_format.read(text[:end_of_arguments] + "}", tools)


# ── the tables ───────────────────────────────────────────────────────────────────────────────────


def _json_start(words: str, arguments: str) -> Callable[[str], str]:
    """What a forced call begins with: up to the arguments where the tool is given, up to the name where not."""

    def call_start(name: str) -> str:
        return f'{words}{{"name": {json.dumps(name)}, "{arguments}": ' if name else f'{words}{{"name": "'

    return call_start


TOOLS: Mapping[str, ToolFormat] = {
    "hermes": ToolFormat(("<tool_call>",), ("</tool_call>",), read_json, _json_start("<tool_call>\n", "arguments")),
    "qwen-xml": ToolFormat(
        ("<tool_call>",),
        ("</tool_call>",),
        read_xml,
        lambda name: f"<tool_call>\n<function={name}>\n" if name else "<tool_call>\n<function=",
        write=writers.write_xml,
        json_arguments=False,
    ),
    "llama": ToolFormat(
        ("<|python_tag|>",),
        ("<|eom_id|>",),
        read_json,
        _json_start("", "parameters"),
        bare="json",
        write=writers.json_calls("", "", "parameters"),
    ),
    "deepseek": ToolFormat(
        ("<｜tool▁calls▁begin｜>",),
        ("<｜tool▁calls▁end｜>",),
        read_deepseek,
        lambda name: (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>" + (f"{name}\n```json\n" if name else "")
        ),
        write=writers.write_deepseek,
    ),
    "phi": ToolFormat(
        ("<|tool_call|>", "functools"),
        ("<|/tool_call|>",),
        read_json,
        _json_start("<|tool_call|>[", "arguments"),
        write=writers.write_list,
    ),
    "minicpm": ToolFormat(
        ("<|tool_call_start|>",),
        ("<|tool_call_end|>",),
        read_python,
        lambda name: f"<|tool_call_start|>\n```python\n{name}(" if name else "<|tool_call_start|>\n```python\n",
        write=writers.write_python,
        json_arguments=False,
    ),
    "minicpm-xml": ToolFormat(
        ("<function",),
        ("</function>",),
        read_elements,
        lambda name: f'<function name="{name}">' if name else '<function name="',
        write=writers.write_elements,
        json_arguments=False,
    ),
    "internlm": ToolFormat(
        ("<|action_start|><|plugin|>", "<|action_start|> <|plugin|>"),
        ("<|action_end|>",),
        read_json,
        _json_start("<|action_start|><|plugin|>\n", "parameters"),
        write=writers.json_calls("<|action_start|><|plugin|>\n", "<|action_end|>", "parameters"),
    ),
    "glm": ToolFormat(
        (), (), read_line, lambda name: f"{name}\n" if name else "", bare="line", write=writers.write_line
    ),
    "gemma": ToolFormat(
        ("<|tool_call>",),
        ("<tool_call|>",),
        read_gemma,
        lambda name: f"<|tool_call>call:{name}{{" if name else "<|tool_call>call:",
        write=writers.write_gemma,
        json_arguments=False,
    ),
}

REASONING: Mapping[str, Reasoning] = {
    "think": Reasoning("<think>", "</think>"),
    "thought": Reasoning("<|thought_start|>", "<|thought_end|>"),
    "channel": Reasoning("<|channel>thought\n", "<channel|>"),
}
