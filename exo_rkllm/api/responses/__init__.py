"""OpenAI's Responses: items instead of messages, and answers that can be referred to later."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from exo_rkllm.api.context import Call, Endpoint
from exo_rkllm.api.encoding import SSE, json_response
from exo_rkllm.api.faults import NoSuchPlace
from exo_rkllm.api.response_format import response_format_of
from exo_rkllm.api.responses import translate
from exo_rkllm.api.responses.stream import ResponseEncoder
from exo_rkllm.api.responses.tables import COUNT, RESPONSE
from exo_rkllm.api.streaming import CompleteAnswer, complete_answer, stream_answers
from exo_rkllm.api.tokens import count_tokens
from exo_rkllm.backends.base import Message
from exo_rkllm.schema.specs import FieldError

MOST_KEPT = 256
LARGEST = 16 << 20  # characters of all conversations together


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response that may be continued: whose it is, the conversation with its answer, and the value that was sent."""

    client: str
    messages: tuple[Message, ...]
    value: Mapping[str, Any]

    @property
    def size(self) -> int:
        return sum(
            len(message.content) + len(message.reasoning) + sum(len(image.data) for image in message.images)
            for message in self.messages
        )


class ResponseStore:
    """A bounded number of responses, in memory only.

    The least recently used one is forgotten first; nobody sees another client's.
    """

    def __init__(self) -> None:
        self._responses: OrderedDict[str, StoredResponse] = OrderedDict()
        self._size = 0

    def keep(self, identity: str, response: StoredResponse) -> None:
        self._responses[identity] = response
        self._size += response.size
        while self._responses and (len(self._responses) > MOST_KEPT or self._size > LARGEST):
            _, oldest = self._responses.popitem(last=False)
            self._size -= oldest.size

    def get(self, identity: str, client: str) -> StoredResponse:
        response = self._responses.get(identity)
        if response is None or response.client != client:
            raise NoSuchPlace(
                f"No response {identity[:80]!a} is kept here (the latest {MOST_KEPT} are, until the daemon restarts).",
                "Send the whole conversation as input.",
            )
        self._responses.move_to_end(identity)
        return response

    def forget(self, identity: str, client: str) -> None:
        self._size -= self.get(identity, client).size
        del self._responses[identity]


class ResponsesApi:
    """The endpoints that share the stored responses."""

    def __init__(self) -> None:
        self._store = ResponseStore()

    async def create(self, call: Call) -> web.StreamResponse:
        values = call.values
        entry = call.entry(values["model"])
        shape = await call.compute(response_format_of, values.get("text", {}).get("format"))
        conversation = await self._conversation(call)
        request = await call.compute(translate.generation_request, entry, values, conversation, shape)
        frame = translate.ResponseFrame(f"resp_{request.id}", entry.id, int(time.time()), values)
        single_call = values.get("parallel_tool_calls") is False

        def keep(answer: CompleteAnswer, value: dict[str, Any]) -> None:
            if values.get("store", True):
                message = Message("assistant", answer.text, answer.reasoning, tuple(answer.tool_calls))
                self._store.keep(frame.id, StoredResponse(call.caller.client, (*conversation, message), value))

        if values.get("stream"):
            return await stream_answers(call, [request], ResponseEncoder(frame, shape, keep, single_call=single_call))
        answer = await complete_answer(call, request)
        if single_call:
            del answer.tool_calls[1:]
        output: list[dict[str, Any]] = []
        if answer.thoughts:
            output.append(translate.reasoning_item(f"rs_{request.id}", answer.reasoning))
        text = shape.check(answer.text, answer.tool_calls)
        if text or not answer.tool_calls:
            output.append(translate.message_item(f"msg_{request.id}", text))
        output += map(translate.call_item, answer.tool_calls)
        value = frame.value("completed", output, answer.finish, answer.thinking_tokens)
        keep(answer, value)
        return json_response(value)

    async def get(self, call: Call) -> web.StreamResponse:
        return json_response(self._store.get(call.request.match_info["id"], call.caller.client).value)

    async def input_items(self, call: Call) -> web.StreamResponse:
        """What a stored response answers, the latest item first unless `order=asc`, in pages."""
        stored = self._store.get(call.request.match_info["id"], call.caller.client)
        query = call.request.query
        items = translate.items_of(stored.messages[:-1], stored.value["id"])
        if query.get("order", "desc") != "asc":
            items.reverse()
        ids = [item["id"] for item in items]
        after = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
        limit = int(query["limit"]) if query.get("limit", "").isdecimal() else 20
        page = items[after : after + max(1, min(limit, 100))]
        return json_response(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": after + len(page) < len(items),
            }
        )

    async def input_tokens(self, call: Call) -> web.StreamResponse:
        values = call.values
        entry = call.entry(values["model"])
        conversation = await self._conversation(call)
        shape = await call.compute(response_format_of, values.get("text", {}).get("format"))
        request = await call.compute(translate.generation_request, entry, values, conversation, shape)
        counted = await count_tokens(call, entry, request)
        return json_response({"object": "response.input_tokens", "input_tokens": counted.tokens, **counted.note})

    async def _conversation(self, call: Call) -> tuple[Message, ...]:
        """The response that is continued, and the new input."""
        earlier: tuple[Message, ...] = ()
        if previous := call.values.get("previous_response_id"):
            earlier = self._store.get(previous, call.caller.client).messages
        conversation = (*earlier, *await call.compute(translate.messages_of, call.values["input"]))
        if not conversation:
            raise FieldError("input", "input holds no message.", "Add what the user says.")
        return conversation

    async def delete(self, call: Call) -> web.StreamResponse:
        identity = call.request.match_info["id"]
        self._store.forget(identity, call.caller.client)
        return json_response({"id": identity, "object": "response", "deleted": True})


def endpoints() -> tuple[Endpoint, ...]:
    api, path = ResponsesApi(), "/v1/responses"
    return (
        Endpoint("POST", path, api.create, "Answers a conversation of items.", body=RESPONSE, stream_type=SSE),
        Endpoint("POST", f"{path}/input_tokens", api.input_tokens, "Counts the tokens of an input.", body=COUNT),
        Endpoint("GET", f"{path}/{{id}}", api.get, "Returns a stored response."),
        Endpoint("GET", f"{path}/{{id}}/input_items", api.input_items, "Returns what a stored response answers."),
        Endpoint("DELETE", f"{path}/{{id}}", api.delete, "Deletes a stored response."),
    )
