"""Answers that must be JSON: asked of the model by prompt, freed of a Markdown fence, checked at the end.

No runtime of this vendor constrains its sampler, so an answer may violate what was asked; then it is an error and
not passed off as what it is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from exo_rkllm.api.faults import AnswerInvalid
from exo_rkllm.backends.base import Message, ToolCall
from exo_rkllm.chat.prompt import with_system
from exo_rkllm.schema.json_schema import Checker

LEAD = re.compile(r"\s*(?:```[a-zA-Z]*[ \t]*\n\s*)?")
UNDECIDED = re.compile(r"\s*(?:`{1,2}|```[a-zA-Z]*[ \t]*)?")
# Inside JSON text a line can't begin with a fence, so what follows one is not the answer any more.
END = re.compile(r"\s*\n\s*```")
MAY_END = re.compile(r"\s*(?:\n\s*`{0,2})?\Z")


class ResponseFormat:
    """What one answer has to be. `feed` and `end` are for streams, `checked` is for whole answers."""

    def __init__(self, kind: Literal["text", "json", "schema"], schema: Mapping[str, Any] | None = None) -> None:
        self.wanted = kind != "text"
        self._kind = kind
        self._schema = schema or {}
        self._checker = Checker(self._schema) if kind == "schema" else None
        self._held = ""
        self._said: list[str] = []
        self._led = False
        self._over = False

    def told(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        if not self.wanted:
            return tuple(messages)
        if self._kind == "json":
            words = "Answer with one JSON object and nothing else: no explanation, no Markdown."
        else:
            schema = json.dumps(self._schema, ensure_ascii=False)
            words = (
                "Answer with JSON that is valid under this JSON Schema and nothing else: no explanation, no Markdown.\n"
                f"{schema}"
            )
        return with_system(messages, words)

    def feed(self, text: str) -> str:
        """What of the answer can be told by now."""
        if self._over:
            return ""
        self._held += text
        if not self._led:
            if UNDECIDED.fullmatch(self._held):
                return ""
            found = LEAD.match(self._held)
            self._held = self._held[found.end() if found else 0 :]
            self._led = True
        if (end := END.search(self._held)) is not None:
            self._over = True
            out, self._held = self._held[: end.start()], ""
        else:
            keep = MAY_END.search(self._held)
            cut = keep.start() if keep else len(self._held)
            out, self._held = self._held[:cut], self._held[cut:]
        self._said.append(out)
        return out

    def end(self, *, called: bool) -> str:
        """The rest, after the whole was checked; an answer that is a tool call is none to be checked."""
        if not self.wanted:
            return ""
        rest = "" if self._over else self._held.rstrip()
        self._said.append(rest)
        said = "".join(self._said)
        if not (called and not said.strip()):
            self._check(said)
        return rest

    def checked(self, text: str, calls: Sequence[ToolCall]) -> str:
        if not self.wanted:
            return text
        told = self.feed(text)
        return told + self.end(called=bool(calls))

    def _check(self, text: str) -> None:
        hint = "Ask again, or use a larger model."
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise AnswerInvalid("The model's answer is not the JSON that was asked for.", hint) from None
        if self._kind == "json" and not isinstance(value, dict):
            raise AnswerInvalid("The model's answer is JSON, and not an object.", hint)
        if self._checker is not None and (why := self._checker.violation(value)):
            raise AnswerInvalid(f"The model's answer violates the schema: {why}.", hint)


def response_format_of(value: Mapping[str, Any] | None) -> ResponseFormat:
    """OpenAI's `response_format`."""
    if value is None or value["type"] == "text":
        return ResponseFormat("text")
    if value["type"] == "json_object":
        return ResponseFormat("json")
    return ResponseFormat("schema", value["json_schema"].get("schema", {}))
