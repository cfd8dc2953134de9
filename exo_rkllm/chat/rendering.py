"""What the helper process does for a prompt: runs a model's template over a conversation of plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from exo_rkllm.chat.template import compiled
from exo_rkllm.chat.tool_writers import arguments_value
from exo_rkllm.errors import TemplateError

# A message as `renderer.plain` makes it: content and the of calls as text.
PlainMessage: TypeAlias = Mapping[str, Any]


def render_template(
    model: str,
    text: str,
    special: Sequence[Sequence[str]],
    messages: Sequence[PlainMessage] | None,
    tools: Sequence[Mapping[str, Any]],
    thinking: bool | None,  # noqa: FBT001 - the arguments of a job have no names
) -> str:
    """The template's text for a conversation; without one, the template is only compiled and kept.

    Where the template refuses, what differs between templates is tried before its word is final: arguments as text
    (DeepSeek), all system words at the beginning (Qwen 3.5), and said by the user (Gemma). Raises TemplateError with
    the first refusal.
    """
    template = compiled(text, tuple((name, token) for name, token in special), model)
    if messages is None:
        return ""
    switches = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
    refusal: TemplateError | None = None
    for attempt, as_text in _attempts(messages):
        try:
            return template.render(
                messages=[message_value(message, text=as_text) for message in attempt],
                tools=list(tools) or None,
                documents=None,
                add_generation_prompt=True,
                **switches,
            )
        except TemplateError as error:
            refusal = refusal or error
    raise refusal or TemplateError("There is nothing to answer.", "Give at least one message.")


def _attempts(messages: Sequence[PlainMessage]) -> Iterator[tuple[Sequence[PlainMessage], bool]]:
    calls = any("tool_calls" in message for message in messages)
    yield messages, False
    if calls:
        yield messages, True
    if any(message["role"] == "system" for message in messages[1:]):
        yield system_first(messages), False
        if calls:
            yield system_first(messages), True
    if any(message["role"] == "system" for message in messages):
        yield without_system(messages), False
        if calls:
            yield without_system(messages), True


def message_value(message: PlainMessage, *, text: bool) -> dict[str, Any]:
    """A message as Hugging Face's templates expect it; `text` leaves the arguments of calls as they were written."""
    value = dict(message)
    if "tool_calls" in value and not text:
        value["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": arguments_value(call["function"]["arguments"])}}
            for call in value["tool_calls"]
        ]
    return value


def system_first(messages: Sequence[PlainMessage]) -> list[PlainMessage]:
    """All system words in one message in front, for templates that take none amid a conversation."""
    first = {"role": "system", "content": system_words(messages)}
    return [first, *(message for message in messages if message["role"] != "system")]


def system_words(messages: Sequence[PlainMessage]) -> str:
    return "\n\n".join(message["content"] for message in messages if message["role"] == "system" if message["content"])


def without_system(messages: Sequence[PlainMessage]) -> list[PlainMessage]:
    """System words in front of the first question, for templates that know no system role (Gemma 2)."""
    words = system_words(messages)
    rest = [message for message in messages if message["role"] != "system"]
    for index, message in enumerate(rest):
        if message["role"] == "user":
            rest[index] = {**message, "content": f"{words}\n\n{message['content']}".strip()}
            break
    return rest
