"""Answers that must have a form: asked of the model by prompt, and checked at the end where they must be JSON.

Where the daemon can hold an answer to its form (`structure/`), or the engine does, it comes valid. Where nothing can,
and for what no grammar says (`uniqueItems`, `not`), an answer that violates what was asked is an error and not passed
off as what it is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from exo_rkllm.backends.base import Message, Structure, StructureKind, ToolCall
from exo_rkllm.chat.prompt import with_system
from exo_rkllm.errors import AnswerInvalid
from exo_rkllm.schema.json_schema import Checker
from exo_rkllm.schema.specs import FieldError, wrong

# The opening of a fence, and what may still become one.
LEAD = re.compile(r"\s*(?:```[a-zA-Z]*[ \t]*\n\s*)?")
MAY_LEAD = re.compile(r"\s*(?:`{1,2}|```[a-zA-Z]*[ \t]*)?")
# Inside JSON text a line can't begin with a fence, so what follows one is not the answer any more.
END = re.compile(r"\s*\n\s*```")
MAY_END = re.compile(r"\s*(?:\n\s*`{0,2})?\Z")


class ResponseFormat:
    """What one answer has to be, and the answer's text so far.

    `value` is what the kind needs: a JSON Schema, a regular expression, a list of choices or a grammar. `structure` is
    the same for the request. `feed` and `end` are for streams, `check` is for whole answers.
    """

    def __init__(self, kind: Literal["text"] | StructureKind, value: Any = None) -> None:
        self.enabled = kind in ("json", "schema")
        self._kind = kind
        self._schema: Mapping[str, Any] = (value or {}) if kind == "schema" else {}
        self._checker = Checker(self._schema, held=_held_keywords()) if kind == "schema" else None
        self.structure = None if kind == "text" else Structure(kind, _text_of(kind, value))
        self._pending = ""
        self._parts: list[str] = []
        self._after_lead = False
        self._after_end = False

    def with_instructions(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        if self.structure is None:
            return tuple(messages)
        words = INSTRUCTIONS[self.structure.kind]
        return with_system(messages, f"{words}\n{self.structure.text}" if self.structure.text else words)

    def feed(self, text: str) -> str:
        """What of the answer may leave by now."""
        if not self.enabled:
            return text
        if self._after_end:
            return ""
        self._pending += text
        if not self._after_lead:
            if MAY_LEAD.fullmatch(self._pending):
                return ""
            lead = LEAD.match(self._pending)
            self._pending = self._pending[lead.end() if lead else 0 :]
            self._after_lead = True
        if (end := END.search(self._pending)) is not None:
            self._after_end = True
            out, self._pending = self._pending[: end.start()], ""
        else:
            tail = MAY_END.search(self._pending)
            cut = tail.start() if tail else len(self._pending)
            out, self._pending = self._pending[:cut], self._pending[cut:]
        self._parts.append(out)
        return out

    def end(self, *, has_calls: bool) -> str:
        """The rest, after the whole was checked; an answer that is a tool call is none to be checked."""
        if not self.enabled:
            return ""
        rest = "" if self._after_end else self._pending.rstrip()
        self._parts.append(rest)
        text = "".join(self._parts)
        if not (has_calls and not text.strip()):
            self._check_text(text)
        return rest

    def check(self, text: str, calls: Sequence[ToolCall]) -> str:
        """The answer without its fence; raises AnswerInvalid."""
        return self.feed(text) + self.end(has_calls=bool(calls))

    def _check_text(self, text: str) -> None:
        hint = "Ask again, or use a larger model."
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise AnswerInvalid("The model's answer is not the JSON that was asked for.", hint) from None
        if self._kind == "json" and not isinstance(value, dict):
            raise AnswerInvalid("The model's answer is JSON, and not an object.", hint)
        if self._checker is not None and (violation := self._checker.violation(value)):
            raise AnswerInvalid(f"The model's answer violates the schema: {violation}.", hint)


INSTRUCTIONS: Mapping[str, str] = {
    "json": "Answer with one JSON object and nothing else: no explanation, no Markdown.",
    "schema": "Answer with JSON that is valid under this JSON Schema and nothing else: no explanation, no Markdown.",
    "regex": "Answer with a text that matches this regular expression as a whole, and nothing else:",
    "choice": "Answer with one of these texts, without quotes, and nothing else:",
    "gbnf": "Answer with a text of this grammar and nothing else:",
}


def _text_of(kind: str, value: Any) -> str:
    if kind in ("schema", "choice"):
        return json.dumps(value or {}, ensure_ascii=False)
    return str(value or "")


def _held_keywords() -> frozenset[str]:
    """Keywords of a schema that answers cannot be checked by, and are held to where that is possible."""
    from exo_rkllm.structure.matcher import HELD_KEYWORDS, installed

    return HELD_KEYWORDS if installed() else frozenset()


def response_format_of(value: Mapping[str, Any] | None) -> ResponseFormat:
    """OpenAI's `response_format`, and its twin `text.format` of the Responses API."""
    if value is None or value["type"] == "text":
        return ResponseFormat("text")
    if value["type"] == "json_object":
        return ResponseFormat("json")
    return ResponseFormat("schema", value.get("json_schema", value).get("schema", {}))


def _schema_of(value: Any, where: str) -> Any:
    """A schema that some clients send as text."""
    if not isinstance(value, str):
        return value
    try:
        schema = json.loads(value)
    except (ValueError, RecursionError):
        raise FieldError(where, f"{where} is text that is no JSON.", "Send the schema as an object.") from None
    if not isinstance(schema, dict):
        raise wrong(where, "a JSON Schema, which is an object", schema)
    return schema


# Fields that ask for a form, and how each is read. vLLM's stand in its newer object without "guided_".
FORMS: Mapping[str, Callable[[Any], ResponseFormat]] = {
    "response_format": response_format_of,
    "guided_json": lambda value: ResponseFormat("schema", _schema_of(value, "guided_json")),
    "guided_regex": lambda value: ResponseFormat("regex", value),
    "guided_choice": lambda value: ResponseFormat("choice", value),
    "guided_grammar": lambda value: ResponseFormat("gbnf", value),
    "guided_json_object": lambda value: ResponseFormat("json" if value else "text"),
    "grammar": lambda value: ResponseFormat("gbnf" if value else "text", value),
    "json_schema": lambda value: ResponseFormat("schema", _schema_of(value, "json_schema")),
}


def asked_format(values: Mapping[str, Any]) -> ResponseFormat:
    """What a body of OpenAI's, vLLM's or llama.cpp's asks for; raises a FieldError where it asks for two forms."""
    fields = {**values, **{f"guided_{name}": value for name, value in values.get("structured_outputs", {}).items()}}
    asked = {name: read(fields[name]) for name, read in FORMS.items() if fields.get(name) not in (None, {}, "")}
    forms = {name: shape for name, shape in asked.items() if shape.structure is not None}
    if len(forms) > 1:
        first, second, *_ = forms
        raise FieldError(second, f"{first} and {second} both say what the answer has to be.", "Send one of them.")
    return next(iter(forms.values()), ResponseFormat("text"))
