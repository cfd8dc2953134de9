"""OpenAI's Responses: items instead of messages, and a stream of typed, numbered events."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from exo_rkllm.api import common_fields
from exo_rkllm.api.answer import AnswerStream, quoted, streamed, whole
from exo_rkllm.api.conversations import Conversations, Kept
from exo_rkllm.api.endpoint import Call, Endpoint
from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.backends.base import Finish, GenerationRequest, Message, Piece, ToolCall, Usage
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
    Number,
    ObjectSpec,
    Switch,
    TaggedSpec,
    Text,
    Whole,
)

# ── tables ───────────────────────────────────────────────────────────────────────────────────────

TEXT = ObjectSpec("InputText", (FieldSpec("text", Text(), "The text.", required=True),))
PARTS = {
    "input_text": TEXT,
    "output_text": TEXT,
    "text": TEXT,
    "refusal": ObjectSpec("Refusal", (FieldSpec("refusal", Text(), "The text.", required=True),)),
    "input_image": ObjectSpec("InputImage", (FieldSpec("image_url", Text(least=1), "A data URL.", required=True),)),
}
CONTENT = Either((Text(), List(TaggedSpec("type", PARTS), most=1000)), "a string or a list of parts")
ITEM = TaggedSpec(
    "type",
    {
        "message": ObjectSpec(
            "MessageItem",
            (
                FieldSpec("role", Text(("user", "assistant", "system", "developer")), "Who speaks.", required=True),
                FieldSpec("content", CONTENT, "What is said.", required=True),
            ),
        ),
        "function_call": ObjectSpec(
            "FunctionCallItem",
            (
                FieldSpec("call_id", Text(least=1, most=256), "The call's id.", required=True),
                FieldSpec("name", Text(least=1, most=256), "The function.", required=True),
                FieldSpec("arguments", Text(), "Its arguments, as JSON text.", required=True),
            ),
        ),
        "function_call_output": ObjectSpec(
            "FunctionCallOutputItem",
            (
                FieldSpec("call_id", Text(least=1, most=256), "The call that it answers.", required=True),
                FieldSpec("output", CONTENT, "What the function returned.", required=True),
            ),
        ),
        "reasoning": ObjectSpec(
            "ReasoningItem",
            (
                FieldSpec(
                    "content",
                    List(ObjectSpec("ReasoningText", (FieldSpec("text", Text(), "The thoughts."),)), most=1000),
                    "Earlier thoughts.",
                ),
            ),
        ),
    },
    "message",
)
TOOL = TaggedSpec("type", {"function": common_fields.FUNCTION})
FORMAT = TaggedSpec(
    "type",
    {
        "text": ObjectSpec("ResponseText", ()),
        "json_object": ObjectSpec("ResponseJson", ()),
        "json_schema": ObjectSpec(
            "ResponseSchema",
            (
                FieldSpec("name", Text(most=256), "Its name."),
                FieldSpec("schema", Free(), "The schema.", required=True),
                FieldSpec("strict", Switch(), "Answers are checked in any case."),
                FieldSpec("description", Text(), "What it is for."),
            ),
        ),
    },
)
TEXT_OPTIONS = ObjectSpec(
    "TextOptions", (FieldSpec("format", FORMAT, "text or JSON."), FieldSpec("verbosity", Text(), "Not read."))
)
FUNCTION_NAMED = ObjectSpec("FunctionChoice", (FieldSpec("name", Text(least=1), "The function.", required=True),))
RESPONSE = ObjectSpec(
    "ResponseRequest",
    (
        common_fields.MODEL,
        FieldSpec(
            "input",
            Either((Text(), List(ITEM, least=1, most=common_fields.MOST_MESSAGES)), "a string or a list of items"),
            "The question.",
            required=True,
        ),
        FieldSpec("instructions", Text(), "How to answer; not taken over from an earlier response."),
        FieldSpec("previous_response_id", Text(most=256), "Continue after that response, if it is still kept."),
        FieldSpec("store", Switch(), "false: do not keep this response."),
        FieldSpec("stream", Switch(), "Send the answer as it comes, as typed events."),
        FieldSpec("max_output_tokens", Whole(1, common_fields.LONGEST_ANSWER), "Longest answer, thoughts included."),
        *common_fields.SAMPLING,
        FieldSpec("tools", List(TOOL, most=common_fields.MOST_TOOLS), "Functions that the model may call."),
        FieldSpec(
            "tool_choice",
            Either(
                (
                    Text(("none", "auto", "required")),
                    TaggedSpec("type", {"function": FUNCTION_NAMED}),
                ),
                "none, auto, required, or a named function",
            ),
            "Whether to call.",
        ),
        FieldSpec("parallel_tool_calls", Switch(), "false: at most one call an answer."),
        FieldSpec("text", TEXT_OPTIONS, "The answer's form."),
        FieldSpec(
            "reasoning",
            ObjectSpec(
                "ReasoningOptions",
                (
                    FieldSpec(
                        "effort",
                        Text(("none", "minimal", "low", "medium", "high", "xhigh")),
                        "none switches thinking off, everything else on.",
                    ),
                    FieldSpec("summary", Text(), "Not read: thoughts are told whole."),
                ),
            ),
            "Thinking.",
        ),
        FieldSpec("metadata", Free(most=64), "Yours; it is told back."),
        FieldSpec("user", Text(most=1000), "Yours; it is not read."),
        FieldSpec("truncation", Text(), "What is too long.", neutral=("disabled",), why="conversations are never cut"),
        FieldSpec("background", Switch(), "Answer later.", neutral=(False,), why="answers are given at once"),
        FieldSpec("conversation", Anything(), "A stored one.", neutral=(), why="only previous_response_id is kept"),
        FieldSpec("prompt", Anything(), "A stored one.", neutral=(), why="there are no stored prompts"),
        FieldSpec("top_logprobs", Whole(0, 20), "Probabilities.", neutral=(0,), why="the runtime has no probabilities"),
        FieldSpec("max_tool_calls", Number(0, 1e9), "Built-in tools.", neutral=(), why="there are no built-in tools"),
    ),
)  # fmt: skip


# ── asking ───────────────────────────────────────────────────────────────────────────────────────


def messages_of(value: str | list[dict[str, Any]]) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", value),)
    messages: list[Message] = []
    for index, item in enumerate(value):
        _add(messages, item, f"input[{index}]")
    return tuple(messages)


def _add(messages: list[Message], item: Mapping[str, Any], where: str) -> None:
    """What one turn of the assistant is several items of here is one message again."""
    last = messages[-1] if messages and messages[-1].role == "assistant" else None
    kind = item["type"]
    if kind == "message":
        text, images = content_of(item["content"], f"{where}.content")
        role = item["role"]
        if role == "assistant" and last is not None and not last.content and not last.tool_calls:
            messages[-1] = dataclasses.replace(last, content=text)
        else:
            messages.append(Message("system" if role == "developer" else role, text, images=images))
    elif kind == "function_call":
        made = ToolCall(item["call_id"], item["name"], item["arguments"])
        if last is not None:
            messages[-1] = dataclasses.replace(last, tool_calls=(*last.tool_calls, made))
        else:
            messages.append(Message("assistant", tool_calls=(made,)))
    elif kind == "function_call_output":
        text, _ = content_of(item["output"], f"{where}.output")
        messages.append(Message("tool", text, tool_call_id=item["call_id"]))
    else:
        thoughts = "".join(part.get("text", "") for part in item.get("content", ()))
        if thoughts:
            messages.append(Message("assistant", reasoning=thoughts))


def content_of(value: str | list[dict[str, Any]], where: str) -> tuple[str, tuple[Any, ...]]:
    if isinstance(value, str):
        return value, ()
    images = tuple(
        common_fields.image_of(part["image_url"], f"{where}[{index}].image_url")
        for index, part in enumerate(value)
        if part["type"] == "input_image"
    )
    return "\n".join(
        part.get("text", part.get("refusal", "")) for part in value if part["type"] != "input_image"
    ), images


def shape_of(values: Mapping[str, Any]) -> ResponseFormat:
    wanted = values.get("text", {}).get("format", {"type": "text"})
    if wanted["type"] == "json_schema":
        return ResponseFormat("schema", wanted["schema"])
    return ResponseFormat("json" if wanted["type"] == "json_object" else "text")


def request_of(
    entry: Entry, values: Mapping[str, Any], said: tuple[Message, ...], shape: ResponseFormat
) -> GenerationRequest:
    instructions = values.get("instructions")
    messages = (*((Message("system", instructions),) if instructions else ()), *said)
    choice = values.get("tool_choice", "auto")
    if not isinstance(choice, str) and not values.get("tools"):
        raise FieldError("tool_choice", "tool_choice names a function, and tools are missing.")
    effort = values.get("reasoning", {}).get("effort")
    return GenerationRequest(
        model=entry.id,
        messages=shape.told(messages),
        sampling=common_fields.sampling_of(values),
        max_tokens=values.get("max_output_tokens"),
        tools=tuple(common_fields.tool_of(tool) for tool in values.get("tools", ())),
        tool_choice=choice if isinstance(choice, str) else choice["name"],
        thinking=None if effort is None else effort != "none",
    )


# ── answering ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ResponseFrame:
    """What of a response is known before its answer: the question's settings, told back."""

    id: str
    model: str
    created: int
    values: Mapping[str, Any]

    def value(self, status: str, output: list[Any], finish: Finish | None = None, thought: int = 0) -> dict[str, Any]:
        values = self.values
        cut = finish is not None and finish.reason == "length"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": "incomplete" if cut else status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": values.get("instructions"),
            "max_output_tokens": values.get("max_output_tokens"),
            "metadata": values.get("metadata", {}),
            "model": self.model,
            "output": output,
            "parallel_tool_calls": values.get("parallel_tool_calls", True),
            "previous_response_id": values.get("previous_response_id"),
            "reasoning": {"effort": values.get("reasoning", {}).get("effort"), "summary": None},
            "store": values.get("store", True),
            "temperature": values.get("temperature"),
            "text": {"format": values.get("text", {}).get("format", {"type": "text"})},
            "tool_choice": values.get("tool_choice", "auto"),
            "tools": values.get("tools", []),
            "top_p": values.get("top_p"),
            "truncation": "disabled",
            "usage": None if finish is None else usage_value(finish.usage, thought),
            "user": values.get("user"),
        }


def usage_value(usage: Usage, thought: int) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": usage.prompt + usage.completion,
        **(common_fields.GUESSED if usage.guessed else {}),
    }


def message_item(identity: str, text: str | None, status: str = "completed") -> dict[str, Any]:
    content = [] if text is None else [text_part(text)]
    return {"id": identity, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def reasoning_item(identity: str, text: str | None, status: str = "completed") -> dict[str, Any]:
    content = [] if text is None else [{"type": "reasoning_text", "text": text}]
    return {"id": identity, "type": "reasoning", "summary": [], "content": content, "status": status}


def call_item(identity: str, made: ToolCall, status: str = "completed") -> dict[str, Any]:
    return {
        "id": identity,
        "type": "function_call",
        "call_id": made.id,
        "name": made.name,
        "arguments": made.arguments if status == "completed" else "",
        "status": status,
    }


def answered(answer: AnswerStream) -> Message:
    return Message("assistant", answer.content, answer.thoughts, tuple(answer.calls))


class Responses:
    """The endpoints that share the kept conversations."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations

    async def create(self, call: Call) -> web.StreamResponse:
        values = call.values
        entry = common_fields.entry_of(call, values["model"])
        shape = shape_of(values)
        before: tuple[Message, ...] = ()
        if previous := values.get("previous_response_id"):
            before = self._conversations.get(previous, call.caller.client).messages
        said = (*before, *messages_of(values["input"]))
        if not said:
            raise FieldError("input", "input holds no message.", "Add what the user says.")
        request = request_of(entry, values, said, shape)
        frame = ResponseFrame(f"resp_{request.id}", entry.id, int(time.time()), values)

        def keep(answer: AnswerStream, value: dict[str, Any]) -> None:
            if values.get("store", True):
                kept = Kept(call.caller.client, (*said, answered(answer)), value)
                self._conversations.keep(frame.id, kept)

        if values.get("stream"):
            scribe = ResponseScribe(frame, shape, keep, single=values.get("parallel_tool_calls") is False)
            return await streamed(call, [request], scribe)
        answer = await whole(call, request)
        if values.get("parallel_tool_calls") is False:
            del answer.calls[1:]
        output: list[dict[str, Any]] = []
        if answer.reasoning:
            output.append(reasoning_item(f"rs_{request.id}", answer.thoughts))
        text = shape.checked(answer.content, answer.calls)
        if text or not answer.calls:
            output.append(message_item(f"msg_{request.id}", text))
        output += [call_item(f"fc_{made.id}", made) for made in answer.calls]
        value = frame.value("completed", output, answer.finish, answer.thought)
        keep(answer, value)
        return web.json_response(value)

    async def get(self, call: Call) -> web.StreamResponse:
        identity = call.request.match_info["id"]
        return web.json_response(self._conversations.get(identity, call.caller.client).value)

    async def delete(self, call: Call) -> web.StreamResponse:
        identity = call.request.match_info["id"]
        self._conversations.forget(identity, call.caller.client)
        return web.json_response({"id": identity, "object": "response", "deleted": True})


class ResponseScribe:
    """One item for each stretch of one kind, with its own opening and closing events; every event has a number."""

    def __init__(self, frame: ResponseFrame, shape: ResponseFormat, keep: Any, *, single: bool) -> None:
        self._frame = frame
        self._shape = shape
        self._keep = keep
        self._single = single
        self._number = 0
        self._answer = AnswerStream()
        self._output: list[dict[str, Any]] = []
        self._kind = ""
        self._item = ""
        self._begin = 0  # where the open item's text begins in the answer
        self._head = ""
        self._started = False

    def piece(self, piece: Piece) -> str:
        if piece.kind == "tool_call":
            return self._call(piece)
        text = self._shape.feed(piece.text) if piece.kind == "answer" and self._shape.wanted else piece.text
        if not text:
            return ""
        opened = "" if piece.kind == self._kind else self._open(piece.kind)
        self._answer.add(Piece(text, kind=piece.kind))
        return opened + self._delta(text)

    def _delta(self, text: str) -> str:
        number = self._number
        self._number += 1
        return f'{self._head}{quoted(text)},"sequence_number":{number}}}\n\n'

    def _event(self, kind: str, **values: Any) -> str:
        body = json.dumps({"type": kind, "sequence_number": self._number, **values}, separators=(",", ":"))
        self._number += 1
        return f"event: {kind}\ndata: {body}\n\n"

    def _start(self) -> str:
        if self._started:
            return ""
        self._started = True
        value = self._frame.value("in_progress", [])
        return self._event("response.created", response=value) + self._event("response.in_progress", response=value)

    def _open(self, kind: str) -> str:
        closed = self._start() + self._close()
        index = len(self._output)
        thinking = kind == "thinking"
        self._kind = kind
        self._item = f"{'rs' if thinking else 'msg'}_{self._frame.id[5:]}_{index}"
        self._begin = len(self._answer.reasoning if thinking else self._answer.text)
        item = (reasoning_item if thinking else message_item)(self._item, None, "in_progress")
        delta = "response.reasoning_text.delta" if thinking else "response.output_text.delta"
        logprobs = "" if thinking else '"logprobs":[],'
        self._head = (
            f'event: {delta}\ndata: {{"type":"{delta}","item_id":"{self._item}","output_index":{index},'
            f'"content_index":0,{logprobs}"delta":'
        )
        part = {"type": "reasoning_text", "text": ""} if thinking else text_part("")
        return (
            closed
            + self._event("response.output_item.added", output_index=index, item=item)
            + self._event("response.content_part.added", **self._place(), part=part)
        )

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": len(self._output), "content_index": 0}

    def _close(self) -> str:
        if not self._kind:
            return ""
        thinking = self._kind == "thinking"
        text = "".join((self._answer.reasoning if thinking else self._answer.text)[self._begin :])
        item = (reasoning_item if thinking else message_item)(self._item, text)
        if thinking:
            done = self._event("response.reasoning_text.done", **self._place(), text=text)
        else:
            done = self._event("response.output_text.done", **self._place(), text=text, logprobs=[])
        done += self._event("response.content_part.done", **self._place(), part=item["content"][0])
        done += self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._kind = ""
        return done

    def _call(self, piece: Piece) -> str:
        if self._single and self._answer.calls:
            return ""
        self._answer.add(piece)
        made = read_tool_call(piece)
        closed = self._start() + self._close()
        index, identity = len(self._output), f"fc_{made.id}"
        item = call_item(identity, made)
        place = {"item_id": identity, "output_index": index}
        self._output.append(item)
        return (
            closed
            + self._event(
                "response.output_item.added", output_index=index, item=call_item(identity, made, "in_progress")
            )
            + self._event("response.function_call_arguments.delta", **place, delta=made.arguments)
            + self._event("response.function_call_arguments.done", **place, name=made.name, arguments=made.arguments)
            + self._event("response.output_item.done", output_index=index, item=item)
        )

    def finish(self, finish: Finish) -> str:
        rest = self._shape.end(called=bool(self._answer.calls))
        if rest:
            tail = "" if self._kind == "answer" else self._open("answer")
            self._answer.add(Piece(rest))
            tail += self._delta(rest)
        else:
            tail = "" if self._output or self._kind else self._open("answer")
        tail += self._close()
        value = self._frame.value("completed", self._output, finish, self._answer.thought)
        self._keep(self._answer, value)
        return tail + self._event(f"response.{value['status']}", response=value)

    def failure(self, error: ExoRkllmError) -> str:
        begun = self._start()
        value = self._frame.value("failed", self._output)
        code = "server_error" if error.status >= 500 else "invalid_prompt"
        value["error"] = {"code": code, "message": str(error)}
        return begun + self._event("response.failed", response=value)


def endpoints(conversations: Conversations) -> tuple[Endpoint, ...]:
    them = Responses(conversations)
    path = "/v1/responses"
    return (
        Endpoint("POST", path, them.create, "Answer items.", body=RESPONSE, streams="text/event-stream"),
        Endpoint("GET", f"{path}/{{id}}", them.get, "A response that is kept.", statuses=(404,)),
        Endpoint("DELETE", f"{path}/{{id}}", them.delete, "Forget a response.", statuses=(404,)),
    )
