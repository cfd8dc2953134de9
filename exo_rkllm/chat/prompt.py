"""What an engine is given: a request's messages and tools, rendered as the model's template wants them.

`render` is the first of the room's two doors; `parser.ResponseParser` reads the answer to what it gives. The template
itself runs in the helper process (`renderer.py`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exo_rkllm.backends.base import (
    Capabilities,
    GenerationRequest,
    Ignored,
    Message,
    Model,
    Structure,
    Tool,
    content_of,
)
from exo_rkllm.chat.chat_format import ChatFormat, chat_format_of
from exo_rkllm.chat.formats import HERMES, TOOLS, Reasoning, ToolFormat
from exo_rkllm.chat.marks import marked
from exo_rkllm.chat.renderer import RenderTemplate, tool_value
from exo_rkllm.chat.tool_writers import Writer, arguments_value
from exo_rkllm.errors import ContextOverflow, NotSupported, UsageError

# More than the longest tokens of any vocabulary have on average, and what is refused for no model.
CHARACTERS_PER_TOKEN = 64
MOST_CHARACTERS = 1_000_000
# Forms that are checked when an answer is complete, where it cannot be held to them; and the words for the others.
CHECKED = ("json", "schema")
FORMS = {"regex": "a regular expression", "choice": "a choice", "gbnf": "a grammar"}


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
    structure: Structure | None = None  # of the text behind thoughts and blanks, where the answer is held to one here
    ignored: tuple[Ignored, ...] = ()  # what of the request the model cannot do, and the answer does without

    @classmethod
    def of(cls, request: GenerationRequest, ends: Sequence[str] = (), **reading: Any) -> Prompt:
        """For a request whose prompt is ready; `reading` are the other fields."""
        stop = tuple(dict.fromkeys((*request.stop, *ends)))
        return cls(dataclasses.replace(request, stop=stop), request.stop, tuple(ends), **reading)


async def render(
    request: GenerationRequest,
    model: Model,
    capabilities: Capabilities,
    render_template: RenderTemplate,
    *,
    guided: bool = False,
) -> Prompt:
    """What the model's engine is given for the request; `render_template` runs the model's template.

    `guided`: an answer can be held to a form here. Where it cannot, JSON is asked for and checked when it is complete.

    An engine that chats by itself gets the request as it is, and so does one that is asked for numbers; a request with
    a prompt or with token ids gets the model's ends only. What is merely offered and the model cannot do (tools,
    thinking) is left out, and named in `ignored`. Raises NotSupported or UsageError where the model cannot do what is
    demanded, ContextOverflow where it is far too long, TemplateError where its template refuses the conversation,
    CardError where the model's chat format cannot be read.
    """
    if not capabilities.images and any(message.images for message in request.messages):
        raise NotSupported(f"{model.id} does not see images.", "Ask without images, or use a model that does.")
    _check_length(request, model.id, capabilities.context or model.context)
    if capabilities.chat or request.output != "text":
        request, ignored = (request, ()) if capabilities.tools else without_tools(request, model.id)
        structure_of(request, model.id, native=capabilities.structure, guided=False)
        return Prompt.of(request, ignored=ignored)
    chat_format = chat_format_of(model)
    native, guided = capabilities.structure, guided and request.tokens is None
    structure = structure_of(request, model.id, native=native, guided=guided)
    if request.prompt is not None or request.tokens is not None:
        return Prompt.of(request, chat_format.stop, structure=structure)
    prompt = await _prompt_of(request, chat_format, model.id, render_template, structure, guided=guided)
    _check_length(prompt.request, model.id, capabilities.context or model.context)
    return prompt


def _check_length(request: GenerationRequest, name: str, context: int) -> None:
    """Refuses what no context holds before it is copied and encoded several times on its way to an engine."""
    texts = [request.prompt or "", *(message.content + message.reasoning for message in request.messages)]
    characters = sum(map(len, texts))
    if characters > max(MOST_CHARACTERS, CHARACTERS_PER_TOKEN * context):
        raise ContextOverflow(
            f"The conversation has {characters} characters, the context of {name} {context} tokens.",
            "Shorten the conversation.",
        )


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


def structure_of(request: GenerationRequest, model: str, *, native: bool, guided: bool) -> Structure | None:
    """What the answer is held to here. Raises NotSupported for what neither the engine nor a later check can do."""
    structure = request.structure
    if structure is None or native:
        return None
    if guided:
        return structure
    if structure.kind in CHECKED:
        return None
    raise NotSupported(
        f"Answers of {model} cannot be held to {FORMS[structure.kind]} here.",
        "Ask for a JSON Schema, or install what holds prompts of text to a grammar: pip install llguidance",
    )


async def _prompt_of(
    request: GenerationRequest,
    chat_format: ChatFormat,
    model: str,
    render_template: RenderTemplate,
    structure: Structure | None,
    *,
    guided: bool,
) -> Prompt:
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
    if must_call is not None and guided and tool_format is not None:
        tool_format = tool_format if tool_format.json_arguments else TOOLS["hermes"]
        structure = structure_of_calls(tool_format, tools, must_call)
    elif tool_format is not None and tool_format.bare and structure is not None and structure.kind in CHECKED:
        structure = None  # such a call begins as an answer in JSON does
    messages, prefix = without_prefix(messages)
    marks = marked(messages) if any(message.images for message in messages) else None
    text = await render_template(model, template, marks.messages if marks else messages, tools, request.thinking)
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
        structure=structure,
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


# ── messages and tools ───────────────────────────────────────────────────────────────────────────


def with_system(messages: Sequence[Message], words: str) -> tuple[Message, ...]:
    """The words in a system message: the one there is, or a new one in front."""
    if messages and messages[0].role == "system":
        first = dataclasses.replace(messages[0], content=f"{messages[0].content}\n\n{words}".strip())
        return (first, *messages[1:])
    return (Message("system", words), *messages)


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


def structure_of_calls(tool_format: ToolFormat, tools: Sequence[Tool], name: str) -> Structure:
    """How a call goes on that the prompt has begun: with the tool's arguments, or with any tool where none is named."""
    begun = tool_format.call_start(name)
    ways = [
        (tool_format.call_start(tool.name).removeprefix(begun), {"type": "object", **tool.parameters})
        for tool in tools
        if name in ("", tool.name)
    ]
    return Structure("calls", json.dumps(ways))


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
        text, images = content_of(("<tool_response>\n", *message.parts(), "\n</tool_response>"), "")
        return Message("user", text, images=images)
    if message.tool_calls:
        calls = write([(call.name, _object(call.arguments)) for call in message.tool_calls])
        return Message(message.role, f"{message.content}\n{calls}".strip(), message.reasoning)
    return message


def _object(arguments: str) -> Mapping[str, Any]:
    value = arguments_value(arguments)
    return value if isinstance(value, dict) else {"arguments": arguments}
