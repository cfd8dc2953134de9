"""What an engine is given: a request's messages and tools, rendered as the model's template wants them.

`render` is the first of the room's two doors; `parser.ResponseParser` reads the answer to what it gives.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exo_rkllm.backends.base import Capabilities, GenerationRequest, Ignored, Message, Model, Tool
from exo_rkllm.chat.chat_format import ChatFormat, chat_format_of
from exo_rkllm.chat.formats import HERMES, Reasoning, ToolFormat
from exo_rkllm.chat.marks import marked
from exo_rkllm.chat.template_source import TemplateSource
from exo_rkllm.chat.tool_writers import Writer
from exo_rkllm.errors import NotSupported, TemplateError, UsageError


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the engine is given, and what a `ResponseParser` needs to read its answer."""

    request: GenerationRequest  # its `stop` holds `ends` as well as the client's own stop strings
    stop: tuple[str, ...] = ()  # the client's stop strings, which count in the answer only
    ends: tuple[str, ...] = ()  # the model's own ways to end, which count everywhere
    reasoning: Reasoning | None = None
    tools: ToolFormat | None = None
    thinking: bool = False  # whether the prompt's end has opened the thoughts
    call_start: str = ""  # the beginning of a call, with which the prompt ends
    forced: str = ""  # what has to be called: a tool's name, or words for any of them; empty where nothing has
    ignored: tuple[Ignored, ...] = ()  # what of the request the model cannot do, and the answer does without

    @classmethod
    def of(cls, request: GenerationRequest, ends: Sequence[str] = (), **reading: Any) -> Prompt:
        """For a request whose prompt is ready; `reading` are the other fields."""
        stop = tuple(dict.fromkeys((*request.stop, *ends)))
        return cls(dataclasses.replace(request, stop=stop), request.stop, tuple(ends), **reading)


def render(request: GenerationRequest, model: Model, capabilities: Capabilities) -> Prompt:
    """What the model's engine is given for the request.

    An engine that chats by itself gets the request as it is, and so does one that is asked for numbers; a request with
    a prompt or with token ids gets the model's ends only. What is merely offered and the model cannot do (tools,
    thinking) is left out, and named in `ignored`. Raises NotSupported or UsageError where the model cannot do what is
    demanded, TemplateError where its template refuses the conversation, CardError where the model's chat format cannot
    be read.
    """
    if not capabilities.images and any(message.images for message in request.messages):
        raise NotSupported(f"{model.id} does not see images.", "Ask without images, or use a model that does.")
    if capabilities.chat or request.output != "text":
        request, ignored = (request, ()) if capabilities.tools else without_tools(request, model.id)
        return Prompt.of(request, ignored=ignored)
    chat_format = chat_format_of(model)
    if request.prompt is not None or request.tokens is not None:
        return Prompt.of(request, chat_format.stop)
    return _prompt_of(request, chat_format, model.id)


def without_tools(request: GenerationRequest, model: str) -> tuple[GenerationRequest, tuple[Ignored, ...]]:
    """The request for a model that cannot call any; raises NotSupported where it has to."""
    tools, must_call = choose(request)
    if must_call is not None:
        raise NotSupported(
            f"{model} cannot call tools, and tool_choice demands it.",
            "Leave tool_choice out, or use a model for which exo-rkllm show lists a tool format.",
        )
    messages = tuple(_plain(message, HERMES) for message in request.messages)
    ignored = (Ignored(("tools",), f"{model} cannot call"),) if tools else ()
    return dataclasses.replace(request, messages=messages, tools=(), tool_choice="auto"), ignored


def _prompt_of(request: GenerationRequest, chat_format: ChatFormat, model: str) -> Prompt:
    ignored: tuple[Ignored, ...] = ()
    if chat_format.tools is None:
        request, ignored = without_tools(request, model)
    if request.thinking and chat_format.reasoning is None:
        ignored = (*ignored, Ignored(("thinking",), f"is for models that think aloud, and {model} does not"))
    tools, must_call = choose(request)
    messages, template, tool_format = request.messages, chat_format.template, None
    if chat_format.system and not any(message.role == "system" for message in messages):
        messages = with_system(messages, chat_format.system)
    if tools and chat_format.tools is not None:
        tool_format = chat_format.tools
        if chat_format.tool_template is not None:
            template = chat_format.tool_template
        else:
            messages = with_instructions(messages, tools, tool_format)
    messages, prefix = without_prefix(messages)
    marks = marked(messages) if any(message.images for message in messages) else None
    text = render_template(template, marks.messages if marks else messages, tools, thinking=request.thinking)
    text = marks.finished(text) if marks else text
    text, thinking = _thoughts_open(text, chat_format.reasoning, enabled=request.thinking)
    call_start = tool_format.call_start(must_call) if tool_format is not None and must_call is not None else ""
    if (call_start or prefix) and thinking:
        text, thinking = _thoughts_open(text, chat_format.reasoning, enabled=False)
    return Prompt.of(
        dataclasses.replace(
            request, messages=(), prompt=text + prefix + call_start, tools=tools, images=marks.images if marks else ()
        ),
        chat_format.stop,
        reasoning=chat_format.reasoning,
        tools=tool_format,
        thinking=thinking,
        call_start=call_start,
        forced=must_call or "a tool" if must_call is not None else "",
        ignored=ignored,
    )


def without_prefix(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
    """The conversation up to its answer, and the beginning of that answer where it ends in one."""
    last = messages[-1] if len(messages) > 1 else None
    if last is None or last.role != "assistant" or last.tool_calls or not last.content:
        return messages, ""
    return messages[:-1], last.content


def _thoughts_open(prompt: str, reasoning: Reasoning | None, *, enabled: bool | None) -> tuple[str, bool]:
    """The prompt, and whether its end opens the thoughts, as some templates do; unwanted ones are closed at once."""
    if reasoning is None or not prompt.rstrip().endswith(reasoning.open.rstrip()):
        return prompt, False
    if enabled is False:
        return f"{prompt.rstrip()}\n\n{reasoning.close}\n\n", False
    return prompt, True


# ── the template ─────────────────────────────────────────────────────────────────────────────────


def render_template(
    source: TemplateSource, messages: Sequence[Message], tools: Sequence[Tool], *, thinking: bool | None
) -> str:
    """The template's text for a conversation: a function of plain values, which may run in any process.

    Where the template refuses, what differs between templates is tried before its word is final: arguments as text
    (DeepSeek), all system words at the beginning (Qwen 3.5), and said by the user (Gemma). Raises TemplateError with
    the first refusal.
    """
    from exo_rkllm.chat.template import compiled  # Jinja is loaded with the first template, not with the daemon

    template = compiled(source)
    switches = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
    tool_values = [tool_value(tool) for tool in tools] or None
    refusal: TemplateError | None = None
    for attempt, text in _attempts(messages):
        try:
            return template.render(
                messages=[message_value(message, text=text) for message in attempt],
                tools=tool_values,
                documents=None,
                add_generation_prompt=True,
                **switches,
            )
        except TemplateError as error:
            refusal = refusal or error
    raise refusal or TemplateError("There is nothing to answer.", "Give at least one message.")


def _attempts(messages: Sequence[Message]) -> Iterator[tuple[Sequence[Message], bool]]:
    calls = any(message.tool_calls for message in messages)
    yield messages, False
    if calls:
        yield messages, True
    if any(message.role == "system" for message in messages[1:]):
        yield system_first(messages), False
        if calls:
            yield system_first(messages), True
    if any(message.role == "system" for message in messages):
        yield without_system(messages), False
        if calls:
            yield without_system(messages), True


# ── messages and tools, as Hugging Face's templates expect them ──────────────────────────────────


def message_value(message: Message, *, text: bool = False) -> dict[str, Any]:
    value: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        value["reasoning_content"] = value["thought"] = message.reasoning  # the second is MiniCPM3's word
    if message.tool_calls:
        value["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments if text else _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        value["tool_call_id"] = message.tool_call_id
    if message.name:
        value["name"] = message.name
    return value


def _arguments(text: str) -> Any:
    """Templates walk over the arguments, so they get the object; what is none stays text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def tool_value(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def with_system(messages: Sequence[Message], words: str) -> tuple[Message, ...]:
    """The words in a system message: the one there is, or a new one in front."""
    if messages and messages[0].role == "system":
        first = dataclasses.replace(messages[0], content=f"{messages[0].content}\n\n{words}".strip())
        return (first, *messages[1:])
    return (Message("system", words), *messages)


def system_first(messages: Sequence[Message]) -> tuple[Message, ...]:
    """All system words in one message in front, for templates that take none amid a conversation."""
    words = "\n\n".join(message.content for message in messages if message.role == "system" and message.content)
    return (Message("system", words), *(message for message in messages if message.role != "system"))


def without_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """System words in front of the first question, for templates that know no system role (Gemma 2)."""
    words = "\n\n".join(message.content for message in messages if message.role == "system" and message.content)
    rest = [message for message in messages if message.role != "system"]
    for index, message in enumerate(rest):
        if message.role == "user":
            rest[index] = dataclasses.replace(message, content=f"{words}\n\n{message.content}".strip())
            break
    return tuple(rest)


# ── tools ────────────────────────────────────────────────────────────────────────────────────────


def choose(request: GenerationRequest) -> tuple[tuple[Tool, ...], str | None]:
    """The tools to offer, and the name that is forced: None for no force, empty for any tool."""
    choice = request.tool_choice
    if choice == "none" or not request.tools:
        if choice not in ("none", "auto", ""):
            raise UsageError(f"tool_choice is {choice!r}, and no tools are given.", "Give the tools with the request.")
        return (), None
    if choice in ("auto", ""):
        return request.tools, None
    if choice == "required":
        return request.tools, request.tools[0].name if len(request.tools) == 1 else ""
    if choice not in {tool.name for tool in request.tools}:
        names = ", ".join(tool.name for tool in request.tools)
        raise UsageError(f"tool_choice names {choice!r}, which is not among the tools.", f"They are: {names}.")
    return request.tools, choice


def with_instructions(
    messages: Sequence[Message], tools: Sequence[Tool], tool_format: ToolFormat
) -> tuple[Message, ...]:
    """For templates that say nothing of tools: a system message that does, and calls as the family writes them."""
    tool_lines = "\n".join(json.dumps(tool_value(tool), ensure_ascii=False) for tool in tools)
    words = (
        f"# Tools\n\nYou can call tools. These are the tools, one JSON object a line:\n<tools>\n{tool_lines}\n</tools>"
        "\n\nTo call a tool, answer with nothing but the call, in exactly this form, and wait for its result:\n"
        f"{tool_format.write([('NAME', {'KEY': 'VALUE'})])}"
    )
    return with_system(tuple(_plain(message, tool_format.write) for message in messages), words)


def _plain(message: Message, write: Writer) -> Message:
    """Calls and results as words of a conversation whose template knows neither."""
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.content}\n</tool_response>")
    if message.tool_calls:
        calls = write([(call.name, _object(call.arguments)) for call in message.tool_calls])
        return Message(message.role, f"{message.content}\n{calls}".strip(), message.reasoning)
    return message


def _object(arguments: str) -> Mapping[str, Any]:
    value = _arguments(arguments)
    return value if isinstance(value, dict) else {"arguments": arguments}
