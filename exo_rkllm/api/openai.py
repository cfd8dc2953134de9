"""OpenAI's language: models, chat completions, completions."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from exo_rkllm.api import common_fields
from exo_rkllm.api.answer import quoted, streamed, whole
from exo_rkllm.api.common_fields import MODEL, SAMPLING, STOP
from exo_rkllm.api.endpoint import Call, Endpoint
from exo_rkllm.api.faults import body_of
from exo_rkllm.api.response_format import ResponseFormat, response_format_of
from exo_rkllm.backends.base import Finish, GenerationRequest, Image, Message, Piece, ToolCall, Usage
from exo_rkllm.catalogue.store import Entry
from exo_rkllm.chat.toolcall import read_tool_call
from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.schema.specs import (
    Anything,
    Either,
    FieldError,
    FieldSpec,
    Free,
    List,
    ObjectSpec,
    Switch,
    TaggedSpec,
    Text,
    Whole,
)

# ── tables ───────────────────────────────────────────────────────────────────────────────────────

ONE_ANSWER = "the NPU computes one answer at a time"
TEXT_PART = ObjectSpec("TextPart", (FieldSpec("text", Text(), "The text.", required=True),))
IMAGE_PART = ObjectSpec(
    "ImagePart",
    (
        FieldSpec(
            "image_url",
            ObjectSpec("ImageUrl", (FieldSpec("url", Text(least=1), "A data URL.", required=True),)),
            "An image, for models that see.",
            required=True,
        ),
    ),
)
CONTENT = Either(
    (Text(), List(TaggedSpec("type", {"text": TEXT_PART, "image_url": IMAGE_PART}, "text"), most=1000)),
    "a string or a list of parts",
)
WORDS = Either(
    (Text(), List(TaggedSpec("type", {"text": TEXT_PART}, "text"), most=1000)), "a string or a list of parts"
)
NAME = FieldSpec("name", Text(most=256), "Who speaks.")
TOOL_CALL = ObjectSpec(
    "ToolCall",
    (
        FieldSpec("id", Text(most=256), "The call's id.", required=True),
        FieldSpec(
            "function",
            ObjectSpec(
                "CalledFunction",
                (
                    FieldSpec("name", Text(least=1, most=256), "The function.", required=True),
                    FieldSpec("arguments", Text(), "Its arguments, as JSON text."),
                ),
            ),
            "What was called.",
            required=True,
        ),
    ),
)
SYSTEM = ObjectSpec("SystemMessage", (FieldSpec("content", WORDS, "How to answer.", required=True), NAME))
MESSAGE = TaggedSpec(
    "role",
    {
        "system": SYSTEM,
        "developer": SYSTEM,
        "user": ObjectSpec("UserMessage", (FieldSpec("content", CONTENT, "The question.", required=True), NAME)),
        "assistant": ObjectSpec(
            "AssistantMessage",
            (
                FieldSpec("content", WORDS, "An earlier answer."),
                FieldSpec("reasoning_content", Text(), "The thoughts of an earlier answer."),
                FieldSpec("tool_calls", List(TOOL_CALL, most=256), "The calls of an earlier answer."),
                NAME,
            ),
        ),
        "tool": ObjectSpec(
            "ToolMessage",
            (
                FieldSpec("content", WORDS, "What the tool returned.", required=True),
                FieldSpec("tool_call_id", Text(most=256), "The call that it answers."),
                NAME,
            ),
        ),
    },
)
TOOLS = FieldSpec(
    "tools",
    List(
        TaggedSpec(
            "type",
            {"function": ObjectSpec("Tool", (FieldSpec("function", common_fields.FUNCTION, "It.", required=True),))},
        ),
        most=common_fields.MOST_TOOLS,
    ),
    "Functions that the model may call.",
)
NAMED_TOOL = ObjectSpec(
    "NamedTool",
    (
        FieldSpec(
            "function",
            ObjectSpec("ToolName", (FieldSpec("name", Text(least=1, most=256), "The function.", required=True),)),
            "The function to call.",
            required=True,
        ),
    ),
)
TOOL_CHOICE = FieldSpec(
    "tool_choice",
    Either(
        (Text(("none", "auto", "required")), TaggedSpec("type", {"function": NAMED_TOOL})),
        "none, auto, required, or a named function",
    ),
    "Whether to call: none, auto, required, or one named function.",
)
RESPONSE_FORMAT = FieldSpec(
    "response_format",
    TaggedSpec(
        "type",
        {
            "text": ObjectSpec("TextFormat", ()),
            "json_object": ObjectSpec("JsonObject", ()),
            "json_schema": ObjectSpec(
                "JsonSchemaFormat",
                (
                    FieldSpec(
                        "json_schema",
                        ObjectSpec(
                            "JsonSchema",
                            (
                                FieldSpec("name", Text(most=256), "Its name."),
                                FieldSpec("description", Text(), "What it is for."),
                                FieldSpec("schema", Free(), "The schema."),
                                FieldSpec("strict", Switch(), "Answers are checked in any case."),
                            ),
                        ),
                        "The schema of the answer.",
                        required=True,
                    ),
                ),
            ),
        },
    ),
    "Asked of the model by prompt, and checked: an answer that violates it is an error.",
)
STREAM = FieldSpec("stream", Switch(), "Send the answer as it comes, as server-sent events.")
STREAM_OPTIONS = FieldSpec(
    "stream_options",
    ObjectSpec("StreamOptions", (FieldSpec("include_usage", Switch(), "A last chunk with the usage."),)),
    "What else the stream tells.",
)
# What is the client's own business, and changes nothing about an answer.
BOOKKEEPING: tuple[FieldSpec, ...] = (
    FieldSpec("user", Text(most=1000), "Yours; it is not read."),
    FieldSpec("metadata", Free(most=64), "Yours; it is not read."),
)
# Known parameters that cannot be honoured: their neutral value is taken, anything else is refused.
REFUSED: tuple[FieldSpec, ...] = (
    FieldSpec("n", Whole(1, 128), "Number of answers.", neutral=(1,), why=ONE_ANSWER),
    FieldSpec("logit_bias", Free(), "Bias of tokens.", neutral=({},), why="the runtime takes no bias"),
    FieldSpec("min_p", Anything(), "A sampler.", neutral=(0,), why="the runtime has no such sampler"),
    FieldSpec("typical_p", Anything(), "A sampler.", neutral=(1,), why="the runtime has no such sampler"),
)
CHAT = ObjectSpec(
    "ChatCompletionRequest",
    (
        MODEL,
        FieldSpec(
            "messages", List(MESSAGE, least=1, most=common_fields.MOST_MESSAGES), "The conversation.", required=True
        ),
        STREAM,
        STREAM_OPTIONS,
        FieldSpec("max_tokens", Whole(1, common_fields.LONGEST_ANSWER), "Longest answer, thoughts included."),
        FieldSpec("max_completion_tokens", Whole(1, common_fields.LONGEST_ANSWER), "The newer name of max_tokens."),
        *SAMPLING,
        STOP,
        TOOLS,
        TOOL_CHOICE,
        FieldSpec("parallel_tool_calls", Switch(), "false: at most one call an answer."),
        RESPONSE_FORMAT,
        FieldSpec(
            "reasoning_effort",
            Text(("none", "minimal", "low", "medium", "high", "xhigh")),
            "none switches thinking off, everything else on: models know no degrees.",
        ),
        FieldSpec(
            "chat_template_kwargs",
            ObjectSpec("TemplateSwitches", (FieldSpec("enable_thinking", Switch(), "Thinking on or off."),)),
            "The switch for thinking, as vLLM and SGLang name it.",
        ),
        *BOOKKEEPING,
        *REFUSED,
        FieldSpec("logprobs", Switch(), "Probabilities.", neutral=(False,), why="the runtime tells no probabilities"),
        FieldSpec(
            "top_logprobs", Whole(0, 20), "Probabilities.", neutral=(0,), why="the runtime tells no probabilities"
        ),
        FieldSpec("functions", List(Anything()), "Replaced by tools.", neutral=([],), why="it was replaced by tools"),
        FieldSpec("function_call", Anything(), "Replaced.", neutral=("none",), why="it was replaced by tool_choice"),
        FieldSpec("modalities", List(Text()), "Kinds of answer.", neutral=(["text"],), why="answers are text"),
        FieldSpec("audio", Anything(), "Spoken answers.", neutral=(), why="answers are text"),
    ),
)
COMPLETION = ObjectSpec(
    "CompletionRequest",
    (
        MODEL,
        FieldSpec(
            "prompt",
            Either(
                (
                    Text(),
                    List(Whole(0), least=1, most=1 << 20),
                    List(Text(), least=1, most=64),
                    List(List(Whole(0), least=1, most=1 << 20), least=1, most=64),
                ),
                "a string, token ids, or a list of one of them",
            ),
            "Continued as it stands: no chat template.",
            required=True,
        ),
        STREAM,
        STREAM_OPTIONS,
        FieldSpec("max_tokens", Whole(1, common_fields.LONGEST_ANSWER), "Longest answer."),
        *SAMPLING,
        STOP,
        FieldSpec("echo", Switch(), "The prompt in front of the answer, where it is text."),
        *BOOKKEEPING,
        *REFUSED,
        FieldSpec("best_of", Whole(1, 128), "Number of tries.", neutral=(1,), why=ONE_ANSWER),
        FieldSpec("suffix", Text(), "Text after the answer.", neutral=("",), why="these models fill no gaps"),
        FieldSpec("logprobs", Whole(0, 100), "Probabilities.", neutral=(), why="the runtime tells no probabilities"),
    ),
)

# ── chat ─────────────────────────────────────────────────────────────────────────────────────────


async def chat(call: Call) -> web.StreamResponse:
    values = call.values
    entry = common_fields.entry_of(call, values["model"])
    shape = response_format_of(values.get("response_format"))
    request = chat_request(entry, values, shape)
    only_one = values.get("parallel_tool_calls") is False
    identity = f"chatcmpl-{request.id}"
    if values.get("stream"):
        usage = values.get("stream_options", {}).get("include_usage", False)
        scribe = ChatScribe(identity, entry.id, shape, usage=usage, only_one=only_one, request_id=call.id)
        return await streamed(call, [request], scribe)
    answer = await whole(call, request)
    calls = answer.calls[:1] if only_one else answer.calls
    message: dict[str, Any] = {"role": "assistant", "content": shape.checked(answer.content, calls) or None}
    if not calls:
        message["content"] = message["content"] or ""
    if answer.reasoning:
        message["reasoning_content"] = answer.thoughts
    if calls:
        message["tool_calls"] = [tool_call_value(made) for made in calls]
    choice = {"index": 0, "message": message, "finish_reason": answer.finish.reason, "logprobs": None}
    return web.json_response(
        {
            "id": identity,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": entry.id,
            "choices": [choice],
            "usage": usage_value(answer.finish, answer.thought),
        }
    )


def chat_request(entry: Entry, values: Mapping[str, Any], shape: ResponseFormat) -> GenerationRequest:
    messages = tuple(message_of(value, f"messages[{index}]") for index, value in enumerate(values["messages"]))
    return GenerationRequest(
        model=entry.id,
        messages=shape.told(messages),
        sampling=common_fields.sampling_of(values),
        max_tokens=values.get("max_completion_tokens", values.get("max_tokens")),
        stop=common_fields.stop_of(values.get("stop")),
        tools=tuple(common_fields.tool_of(tool["function"]) for tool in values.get("tools", ())),
        tool_choice=choice_of(values.get("tool_choice", "auto"), values.get("tools", ())),
        thinking=thinking_of(values),
    )


def thinking_of(values: Mapping[str, Any]) -> bool | None:
    switch = values.get("chat_template_kwargs", {}).get("enable_thinking")
    if switch is not None:
        return bool(switch)
    effort = values.get("reasoning_effort")
    return None if effort is None else effort != "none"


def choice_of(value: str | Mapping[str, Any], tools: Sequence[object]) -> str:
    if isinstance(value, str):
        return value
    if not tools:
        raise FieldError("tool_choice", "tool_choice names a function, and tools are missing.")
    return str(value["function"]["name"])


def message_of(value: Mapping[str, Any], where: str) -> Message:
    role = value["role"]
    text, images = content_of(value.get("content", ""), f"{where}.content")
    return Message(
        role="system" if role == "developer" else role,
        content=text,
        reasoning=value.get("reasoning_content", ""),
        tool_calls=tuple(
            ToolCall(made["id"], made["function"]["name"], made["function"].get("arguments", "{}"))
            for made in value.get("tool_calls", ())
        ),
        tool_call_id=value.get("tool_call_id", ""),
        name=value.get("name", ""),
        images=images,
    )


def content_of(value: str | list[dict[str, Any]], where: str) -> tuple[str, tuple[Image, ...]]:
    if isinstance(value, str):
        return value, ()
    images = [
        common_fields.image_of(part["image_url"]["url"], f"{where}[{index}].image_url.url")
        for index, part in enumerate(value)
        if part["type"] == "image_url"
    ]
    return "\n".join(part["text"] for part in value if part["type"] == "text"), tuple(images)


def tool_call_value(made: ToolCall) -> dict[str, Any]:
    return {"id": made.id, "type": "function", "function": {"name": made.name, "arguments": made.arguments}}


def usage_value(finish: Finish, thought: int = 0) -> dict[str, Any]:
    return {
        **counted(finish.usage),
        "completion_tokens_details": {"reasoning_tokens": thought},
        "timings": common_fields.milliseconds(finish.timings),
    }


def counted(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        **({"prompt_tokens_details": {"cached_tokens": usage.cached}} if usage.counted else {}),
        **(common_fields.GUESSED if usage.guessed else {}),
    }


class ChatScribe:
    """A chunk a piece, put together from strings that were made before: no object is built for a token."""

    def __init__(
        self, identity: str, model: str, shape: ResponseFormat, *, usage: bool, only_one: bool, request_id: str
    ) -> None:
        self._head = (
            f'data: {{"id":"{identity}","object":"chat.completion.chunk","created":{int(time.time())},'
            f'"model":{quoted(model)},"choices":['
        )
        self._end = '],"usage":null}\n\n' if usage else "]}\n\n"
        self._opening = (
            f'{self._head}{{"index":0,"delta":{{"role":"assistant","content":""}},"finish_reason":null}}{self._end}'
        )
        self._answer = f'{self._head}{{"index":0,"delta":{{"content":'
        self._thinking = f'{self._head}{{"index":0,"delta":{{"reasoning_content":'
        self._tail = f'}},"finish_reason":null}}{self._end}'
        self._shape = shape
        self._usage = usage
        self._only_one = only_one
        self._calls = 0
        self._thought = 0
        self._request_id = request_id

    def piece(self, piece: Piece) -> str:
        opening = self._opening
        if opening:
            self._opening = ""
        if piece.kind == "answer":
            text = self._shape.feed(piece.text) if self._shape.wanted else piece.text
            return opening + self._answer + quoted(text) + self._tail if text else opening
        if piece.kind == "thinking":
            self._thought += 1
            return opening + self._thinking + quoted(piece.text) + self._tail
        return opening + self._call(read_tool_call(piece))

    def _call(self, made: ToolCall) -> str:
        if self._only_one and self._calls:
            return ""
        value = {"index": self._calls, **tool_call_value(made)}
        self._calls += 1
        return f'{self._head}{{"index":0,"delta":{{"tool_calls":[{json.dumps(value)}]{self._tail}'

    def finish(self, finish: Finish) -> str:
        opening, self._opening = self._opening, ""
        rest = self._shape.end(called=self._calls > 0)
        said = self._answer + quoted(rest) + self._tail if rest else ""
        last = f'{self._head}{{"index":0,"delta":{{}},"finish_reason":"{finish.reason}"}}{self._end}'
        usage = f'{self._head}],"usage":{json.dumps(usage_value(finish, self._thought))}}}\n\n' if self._usage else ""
        return f"{opening}{said}{last}{usage}data: [DONE]\n\n"

    def failure(self, error: ExoRkllmError) -> str:
        return f"data: {body_of(error, 'openai', self._request_id)}\n\n"


# ── completions ──────────────────────────────────────────────────────────────────────────────────


async def completions(call: Call) -> web.StreamResponse:
    values = call.values
    entry = common_fields.entry_of(call, values["model"])
    prompts = prompts_of(values["prompt"])
    echo = bool(values.get("echo"))
    if echo and not all(isinstance(prompt, str) for prompt in prompts):
        raise FieldError("echo", "echo wants a prompt that is text.", "Send the prompt as a string.")
    requests = [completion_request(entry, values, prompt) for prompt in prompts]
    identity = f"cmpl-{secrets.token_hex(16)}"
    echoes = [str(prompt) if echo else "" for prompt in prompts]
    if values.get("stream"):
        usage = values.get("stream_options", {}).get("include_usage", False)
        return await streamed(
            call, requests, CompletionScribe(identity, entry.id, echoes, usage=usage, request_id=call.id)
        )
    answers = [await whole(call, request) for request in requests]
    choices = [
        {"index": index, "text": said + answer.content, "finish_reason": answer.finish.reason, "logprobs": None}
        for index, (answer, said) in enumerate(zip(answers, echoes, strict=True))
    ]
    return web.json_response(
        {
            "id": identity,
            "object": "text_completion",
            "created": int(time.time()),
            "model": entry.id,
            "choices": choices,
            "usage": counted(common_fields.total([answer.finish.usage for answer in answers])),
        }
    )


def prompts_of(value: str | list[Any]) -> list[str | tuple[int, ...]]:
    if isinstance(value, str):
        return [value]
    if isinstance(value[0], int):
        return [tuple(value)]
    return [one if isinstance(one, str) else tuple(one) for one in value]


def completion_request(entry: Entry, values: Mapping[str, Any], prompt: str | tuple[int, ...]) -> GenerationRequest:
    return GenerationRequest(
        model=entry.id,
        prompt=prompt if isinstance(prompt, str) else None,
        tokens=None if isinstance(prompt, str) else prompt,
        sampling=common_fields.sampling_of(values),
        max_tokens=values.get("max_tokens"),
        stop=common_fields.stop_of(values.get("stop")),
    )


class CompletionScribe:
    """Answers of several prompts follow one another, told apart by their index."""

    def __init__(self, identity: str, model: str, echoes: list[str], *, usage: bool, request_id: str) -> None:
        self._head = (
            f'data: {{"id":"{identity}","object":"text_completion","created":{int(time.time())},'
            f'"model":{quoted(model)},"choices":['
        )
        self._echoes = echoes
        self._usages: list[Usage] = []
        self._usage = usage
        self._end = '],"usage":null}\n\n' if usage else "]}\n\n"
        self._tail = f',"finish_reason":null,"logprobs":null}}{self._end}'
        self._request_id = request_id
        self._begin()

    def _begin(self) -> None:
        index = len(self._usages)
        self._answer = f'{self._head}{{"index":{index},"text":'
        echo = self._echoes[index] if index < len(self._echoes) else ""
        self._opening = self._answer + quoted(echo) + self._tail if echo else ""

    def piece(self, piece: Piece) -> str:
        opening, self._opening = self._opening, ""
        return opening + self._answer + quoted(piece.text) + self._tail

    def finish(self, finish: Finish) -> str:
        said = f'{self._opening}{self._answer}"","finish_reason":"{finish.reason}","logprobs":null}}{self._end}'
        self._usages.append(finish.usage)
        self._begin()
        if len(self._usages) < len(self._echoes):
            return said
        if self._usage:
            said += f'{self._head}],"usage":{json.dumps(counted(common_fields.total(self._usages)))}}}\n\n'
        return said + "data: [DONE]\n\n"

    def failure(self, error: ExoRkllmError) -> str:
        return f"data: {body_of(error, 'openai', self._request_id)}\n\n"


# ── models ───────────────────────────────────────────────────────────────────────────────────────


def model_value(entry: Entry) -> dict[str, Any]:
    card = entry.card
    facts = {"context": card.context, "quantization": card.quantization, "platform": card.platform}
    return {
        "id": entry.id,
        "object": "model",
        "created": created(entry),
        "owned_by": card.base_model.partition("/")[0] or "exo-rkllm",
        **{name: value for name, value in facts.items() if value},
    }


def created(entry: Entry) -> int:
    try:
        return int(entry.folder.stat().st_mtime)
    except OSError:
        return 0


async def models(call: Call) -> web.StreamResponse:
    return web.json_response({"object": "list", "data": [model_value(entry) for entry in call.parts.catalogue.list()]})


async def model(call: Call) -> web.StreamResponse:
    return web.json_response(model_value(common_fields.entry_of(call, call.name)))


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("GET", "/v1/models", models, "The models of the catalogue."),
    Endpoint("GET", "/v1/models/{model:.+}", model, "One model.", statuses=(404,)),
    Endpoint("POST", "/v1/chat/completions", chat, "Answer a conversation.", body=CHAT, streams="text/event-stream"),
    Endpoint("POST", "/v1/completions", completions, "Continue a text.", body=COMPLETION, streams="text/event-stream"),
)
