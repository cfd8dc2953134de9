"""From dispatch's events to an answer, whole or as a stream, whatever language it is told in."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from typing import Protocol

from aiohttp import web

from exo_rkllm.api import faults
from exo_rkllm.api.direct_write import DirectWriter, DisconnectProtocol
from exo_rkllm.api.endpoint import Call
from exo_rkllm.api.serve import always
from exo_rkllm.backends.base import Array, Finish, GenerationEvent, GenerationRequest, Piece, Progress, ToolCall
from exo_rkllm.chat.toolcall import read_tool_call
from exo_rkllm.errors import ExoRkllmError

# JSON text of a string, ASCII only: it survives lone surrogates, and line splitters that know U+2028.
quoted = encode_basestring_ascii

# After so many silent seconds a stream begins all the same, so that no proxy gives up on a model that loads.
PULSE = 10.0
SSE = "text/event-stream"
NDJSON = "application/x-ndjson"


@dataclass(slots=True)
class AnswerStream:
    """One answer as it adds up."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    arrays: list[Array] = field(default_factory=list)
    thought: int = 0
    finish: Finish = field(default_factory=lambda: Finish("stop"))

    def add(self, event: GenerationEvent) -> None:
        if isinstance(event, Piece):
            if event.kind == "answer":
                self.text.append(event.text)
            elif event.kind == "thinking":
                self.reasoning.append(event.text)
                self.thought += 1
            else:
                self.calls.append(read_tool_call(event))
        elif isinstance(event, Array):
            self.arrays.append(event)
        elif isinstance(event, Finish):
            self.finish = event

    @property
    def content(self) -> str:
        return "".join(self.text)

    @property
    def thoughts(self) -> str:
        return "".join(self.reasoning)


class Scribe(Protocol):
    """Writes one answer in an API's words; every method returns what goes onto the wire, or nothing."""

    def piece(self, piece: Piece) -> str: ...

    def finish(self, finish: Finish) -> str: ...

    def failure(self, error: ExoRkllmError) -> str: ...


async def whole(call: Call, request: GenerationRequest, keep_alive: float | None = None) -> AnswerStream:
    answer = AnswerStream()
    events = call.parts.dispatcher.generate(request, client=call.caller.client, keep_alive=keep_alive)
    async with aclosing(events):
        async for event in events:
            answer.add(event)
    complete(answer.finish)
    return answer


def complete(finish: Finish | None) -> Finish:
    """No API has a word for an answer that somebody else ended: it is an error."""
    if finish is None or finish.reason == "abort":
        raise faults.aborted()
    return finish


async def streamed(
    call: Call,
    requests: list[GenerationRequest],
    scribe: Scribe,
    content_type: str = SSE,
    keep_alive: float | None = None,
) -> web.StreamResponse:
    """The answers one after another in one stream; a refusal that comes before its first byte has its own status."""
    outbox = DirectWriter()
    settings = call.parts.settings()
    watch = _Watch(call, outbox, settings.idle_seconds, pulse=content_type == SSE)
    reader = asyncio.create_task(_read(call, requests, scribe, outbox, watch, keep_alive))
    try:
        await outbox.ready()
        response = web.StreamResponse(
            headers={
                "Content-Type": content_type,
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
                **always(call.request, settings, call.id),
            }
        )
        await response.prepare(call.request)
        while data := await outbox.take():
            watch.writing = watch.moved = True
            await response.write(data)
            watch.writing = False
            outbox.straight(watch.straight(response))
        await response.write_eof()
    except ConnectionError:
        raise asyncio.CancelledError from None  # the client is gone; nobody is left to be told
    finally:
        watch.close()
        reader.cancel()
        with suppress(asyncio.CancelledError):
            await reader
    return response


async def _read(
    call: Call,
    requests: list[GenerationRequest],
    scribe: Scribe,
    outbox: DirectWriter,
    watch: _Watch,
    keep_alive: float | None,
) -> None:
    """Told even of defects, since the status was sent long ago."""
    said = False
    try:
        for request in requests:
            events = call.parts.dispatcher.generate(request, client=call.caller.client, keep_alive=keep_alive)
            finish = None
            async with aclosing(events):
                async for event in events:
                    if type(event) is Piece:
                        if text := scribe.piece(event):
                            outbox.put(text)
                            said = True
                    elif type(event) is Finish:
                        finish = event
                    elif type(event) is Progress:
                        watch.progress = event
            outbox.put(scribe.finish(complete(finish)))
            said = True
        outbox.close()
    except ExoRkllmError as error:
        _fail(outbox, scribe, error, said=said or watch.begun)
    except Exception:
        logging.getLogger("exo_rkllm.api").exception("a stream failed")
        _fail(outbox, scribe, faults.broken(), said=said or watch.begun)


def _fail(outbox: DirectWriter, scribe: Scribe, error: ExoRkllmError, *, said: bool) -> None:
    if said:
        outbox.put(scribe.failure(error))
        outbox.close()
    else:
        outbox.close(error)


class _Watch:
    """One timer a stream: begins it when nothing came for long, and ends it when its client takes nothing for long."""

    def __init__(self, call: Call, outbox: DirectWriter, idle_seconds: float, *, pulse: bool) -> None:
        self.begun = False
        self.writing = False
        self.moved = False
        self.progress = Progress("queued")
        self._call = call
        self._outbox = outbox
        self._pulse = pulse
        self._blocked = 0.0
        self._idle_seconds = idle_seconds
        self._period = min(PULSE, idle_seconds)
        self._timer = asyncio.get_running_loop().call_later(self._period, self._beat)

    def straight(self, response: web.StreamResponse) -> DisconnectProtocol:
        """Onto the connection without aiohttp, which has sent the head by now and frames each write like this."""
        transport, chunked = self._call.request.transport, "Transfer-Encoding" in response.headers

        def write(data: bytes) -> bool:
            if transport is None or transport.is_closing() or transport.get_write_buffer_size():
                return False
            self.moved = True
            transport.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            return True

        return write

    def close(self) -> None:
        self._timer.cancel()

    def _beat(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._period, self._beat)
        self._blocked = self._blocked + self._period if self.writing else 0.0
        transport = self._call.request.transport
        if self._blocked >= self._idle_seconds and transport is not None:
            transport.abort()
        elif self._pulse and not self.moved:
            self.begun = True
            self._outbox.put(f": {self.progress.stage} {self.progress.done}\n\n")
        self.moved = False
