"""The HTTP side of a node, as far as clients and workers use it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp import web

from exo_rkllm.cluster.wire.revisions import Revision
from tests.exo_cluster.standin.master import new_id
from tests.exo_cluster.standin.state import Json, State, unwrap

PART = 512 * 1024
DEFAULTS: Json = {
    "instructions": None,
    "max_output_tokens": None,
    "temperature": None,
    "top_p": None,
    "stream": False,
    "tools": None,
    "bench": False,
    "use_prefix_cache": False,
    "top_k": None,
    "stop": None,
    "seed": None,
    "chat_template_messages": None,
    "reasoning_effort": None,
    "enable_thinking": None,
    "logprobs": False,
    "top_logprobs": None,
    "min_p": None,
    "repetition_penalty": None,
    "repetition_context_size": None,
    "presence_penalty": None,
    "frequency_penalty": None,
    "images": [],
    "image_hashes": {},
    "prefill_endpoint": None,
}


def openapi(revision: Revision) -> Json:
    """What FastAPI would write of the types that a revision publishes."""
    schemas: Json = {}
    for name in revision.table.lists["published"]:
        if name in revision.table.enums:
            schemas[name] = {"type": "string", "enum": list(revision.table.enums[name])}
        else:
            record = revision.table.records[name]
            schemas[name] = {
                "type": "object",
                "properties": {field.camel: {} for field in record.fields},
                "required": [field.camel for field in record.fields if not field.optional],
            }
    return {"openapi": "3.1.0", "components": {"schemas": schemas}}


class Api:
    """`command` publishes a command; chunks come back through `chunk`, by the command's id."""

    def __init__(self, node_id: str, revision: Revision, command: Callable[[Json], None], writing: float) -> None:
        self.node_id = node_id
        self.state = State()
        self.paused = asyncio.Event()
        self.paused.set()
        self.completed = 0
        self._revision = revision
        self._command = command
        self._writing = writing
        self._queues: dict[str, asyncio.Queue[Json]] = {}
        self._sent_images: set[str] = set()

    # ── the log ──

    def apply(self, index: int, what: Json) -> None:
        self.state.apply(index, what)
        kind, body = unwrap(what)
        if kind == "ChunkGenerated":
            queue = self._queues.get(body["command_id"])
            if queue is not None:
                image = self._is_image.get(body["command_id"], False)
                assert image == ("ImageChunk" in body["chunk"]), "a chunk of the wrong kind ends an exo node"
                queue.put_nowait(body["chunk"])
        elif kind == "InstanceDeleted":
            for task in self.state.tasks.values():
                fields = unwrap(task)[1]
                if fields["instance_id"] == body["instance_id"] and fields.get("command_id") in self._queues:
                    self._queues.pop(fields["command_id"]).put_nowait(None)

    def reset(self, clock: int) -> None:
        """A new session: everything is forgotten; streams that were open are never ended."""
        self.state = State()
        self._queues = {}
        self._sent_images = set()
        self.unpause(clock)

    def unpause(self, clock: int) -> None:
        self.completed = clock
        self.paused.set()

    def pause(self, clock: int) -> None:
        if clock > self.completed:
            self.paused.clear()

    async def send(self, what: Json) -> None:
        await self.paused.wait()
        self._command(what)

    # ── routes ──

    _is_image: dict[str, bool]

    def app(self) -> web.Application:
        self._is_image = {}
        app = web.Application(client_max_size=1 << 28)
        app.add_routes(
            [
                web.get("/node_id", self._node_id),
                web.get("/state", self._state),
                web.get("/openapi.json", self._openapi),
                web.get("/v1/models", self._models),
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/images/generations", self._images),
                web.post("/v1/cancel/{command}", self._cancel),
                web.post("/instance", self._create),
                web.delete("/instance/{instance}", self._delete),
                web.post("/place_instance", self._place),
                web.post("/download/start", self._raw),
            ]
        )
        return app

    async def _node_id(self, _: web.Request) -> web.Response:
        return web.json_response(self.node_id)

    async def _state(self, _: web.Request) -> web.Response:
        known = {entry.camel for entry in self._revision.table.records["State"].fields}
        return web.json_response({key: value for key, value in self.state.document().items() if key in known})

    async def _openapi(self, _: web.Request) -> web.Response:
        time.sleep(self._writing)  # as FastAPI does when it is asked first
        self._writing = 0.0
        return web.json_response(openapi(self._revision))

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": model} for model in self.state.custom_model_cards]})

    async def _create(self, request: web.Request) -> web.Response:
        await self.send({"CreateInstance": {"command_id": new_id(), "instance": (await request.json())["instance"]}})
        return web.json_response({"message": "Command received."})

    async def _delete(self, request: web.Request) -> web.Response:
        instance = request.match_info["instance"]
        await self.send({"DeleteInstance": {"command_id": new_id(), "instance_id": instance}})
        return web.json_response({"message": "Command received."})

    async def _place(self, request: web.Request) -> web.Response:
        card = self.state.custom_model_cards[(await request.json())["model_id"]]
        if not {"MlxMetal", "MlxCuda", "MlxCpu"} & set(card["backends"]):
            return web.json_response({"detail": "backends [] cannot satisfy engine MlxRing"}, status=400)
        place = {"model_card": card, "sharding": "Pipeline", "instance_meta": "MlxRing", "min_nodes": 1}
        await self.send({"PlaceInstance": {"command_id": new_id(), **place}})
        return web.json_response({"message": "Command received."})

    async def _raw(self, request: web.Request) -> web.Response:
        """A download command as it stands."""
        self._command({"download": await request.json()})
        return web.json_response({})

    async def _cancel(self, request: web.Request) -> web.Response:
        command = request.match_info["command"]
        await self.send({"TaskCancelled": {"command_id": new_id(), "cancelled_command_id": command}})
        return web.json_response({"message": "ok"})

    async def _images(self, request: web.Request) -> web.Response:
        body = await request.json()
        if not self.state.instances_of(body["model"]):
            return web.json_response({"detail": "No instance found"}, status=404)
        command = new_id()
        queue: asyncio.Queue[Json] = asyncio.Queue()
        self._queues[command] = queue
        self._is_image[command] = True
        await self.send({"ImageGeneration": {"command_id": command, "task_params": body}})
        chunk = unwrap(await queue.get())[1]
        await self.send({"TaskFinished": {"command_id": new_id(), "finished_command_id": command}})
        return web.json_response({"error": {"message": chunk["error_message"], "code": 500}}, status=500)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        model = body["model"]
        if not self.state.instances_of(model):
            return web.json_response({"detail": f"No instance found for model {model}"}, status=404)
        command = new_id()
        params, images = (body["task_params"], []) if "task_params" in body else self._params(body)
        await self._send_images(command, params, images)
        await self.send({"TextGeneration": {"command_id": command, "task_params": params}})
        queue: asyncio.Queue[Json] = asyncio.Queue()
        self._queues[command] = queue
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Command-Id": command})
        await response.prepare(request)
        try:
            await (self._stream if body.get("stream") else self._collect)(response, queue)
        except (asyncio.CancelledError, ConnectionError):
            self._command({"TaskCancelled": {"command_id": new_id(), "cancelled_command_id": command}})
            raise
        finally:
            self._queues.pop(command, None)
        await self.send({"TaskFinished": {"command_id": new_id(), "finished_command_id": command}})
        return response

    async def _chunks(self, queue: asyncio.Queue[Json]) -> Any:
        while True:
            wrapped = await queue.get()
            if wrapped is None:
                return
            kind, chunk = unwrap(wrapped)
            yield kind, chunk
            if chunk.get("finish_reason") is not None:
                return

    async def _stream(self, response: web.StreamResponse, queue: asyncio.Queue[Json]) -> None:
        ended = False
        async for kind, chunk in self._chunks(queue):
            if kind == "PrefillProgressChunk":
                await response.write(f": prefill_progress {json.dumps(chunk)}\n\n".encode())
                continue
            ended = chunk["finish_reason"] is not None
            await response.write(b"data: " + json.dumps(said(kind, chunk)).encode() + b"\n\n")
            if ended and chunk.get("stats"):
                await response.write(f": generation_stats {json.dumps(chunk['stats'])}\n\n".encode())
        if ended:
            await response.write(b"data: [DONE]\n\n")

    async def _collect(self, response: web.StreamResponse, queue: asyncio.Queue[Json]) -> None:
        text, thinking, last = "", "", None
        calls: list[Json] = []
        async for kind, chunk in self._chunks(queue):
            if kind == "ErrorChunk":
                return  # exo's own bug: status 200 and an empty body (reference 6)
            if kind == "TokenChunk":
                last = chunk
                if chunk["is_thinking"]:
                    thinking += chunk["text"]
                else:
                    text += chunk["text"]
            elif kind == "ToolCallChunk":
                last, calls = chunk, chunk["tool_calls"]
        message = {"role": "assistant", "content": text, "reasoning_content": thinking or None, "tool_calls": calls}
        finish = None if last is None else last["finish_reason"]
        usage = None if last is None else last["usage"]
        body = {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}
        with suppress(ConnectionError):
            await response.write(json.dumps(body).encode())

    # ── requests ──

    def _params(self, body: Json) -> tuple[Json, list[str]]:
        images: list[str] = []
        messages = [self._message(entry, images) for entry in body["messages"]]
        card = self.state.custom_model_cards.get(body["model"], {}).get("sampling_defaults", {})
        simple = [
            {"role": entry["role"], "content": entry["content"] if isinstance(entry["content"], str) else ""}
            for entry in messages
            if entry["role"] in ("user", "assistant", "developer")
        ]
        params = {
            "model": body["model"],
            "input": simple or [{"role": "user", "content": ""}],
            **DEFAULTS,
            **{key: body[key] for key in DEFAULTS if key in body and key not in ("images", "input")},
            "max_output_tokens": body.get("max_tokens"),
            "chat_template_messages": messages,
        }
        for key in ("temperature", "top_p", "top_k", "min_p"):
            params[key] = params[key] if params[key] is not None else card.get(key)
        return params, images

    def _message(self, entry: Json, images: list[str]) -> Json:
        if isinstance(entry.get("content"), list):
            parts = []
            for part in entry["content"]:
                if part["type"] == "image_url":
                    images.append(part["image_url"]["url"].partition("base64,")[2])
                    parts.append({"type": "image"})
                else:
                    parts.append(part)
            return {**entry, "content": parts}
        return {**entry, "content": entry.get("content") or ""}

    async def _send_images(self, command: str, params: Json, images: list[str]) -> None:
        """Data ahead of the task, and only once (reference 2.7)."""
        hashes = [hashlib.sha256(image.encode()).hexdigest() for image in images]
        params["image_hashes"] = {str(index): found for index, found in enumerate(hashes)}
        parts = [
            (index, image[start : start + PART])
            for index, (image, found) in enumerate(zip(images, hashes, strict=True))
            if found not in self._sent_images
            for start in range(0, len(image), PART)
        ]
        self._sent_images |= set(hashes)
        for number, (index, data) in enumerate(parts):
            chunk = {
                "model": params["model"],
                "command_id": command,
                "data": data,
                "chunk_index": number,
                "total_chunks": len(parts),
                "image_index": index,
            }
            await self.send({"SendInputChunk": {"command_id": new_id(), "chunk": {"InputImageChunk": chunk}}})


def said(kind: str, chunk: Json) -> Json:
    """One event of the stream in OpenAI's words."""
    if kind == "ErrorChunk":
        return {"error": {"message": chunk["error_message"], "type": "InternalServerError", "code": 500}}
    if kind == "ToolCallChunk":
        calls = enumerate(chunk["tool_calls"])
        delta: Json = {"tool_calls": [{"id": call["id"], "index": index, "function": call} for index, call in calls]}
    elif chunk["is_thinking"]:
        delta = {"reasoning_content": chunk["text"]}
    else:
        delta = {"content": chunk["text"]}
    choice = {"index": 0, "delta": delta, "finish_reason": chunk["finish_reason"]}
    return {"choices": [_told(choice)], **_told({"usage": chunk["usage"]})}


def _told(what: Json) -> Json:
    """exo leaves out what it does not have."""
    return {key: value for key, value in what.items() if value is not None}
