"""Answers on their way to the client: collected into one body, or streamed while they are computed.

What happens when a client leaves:

1. Its connection ends, and asyncio tells the transport's protocol. `DisconnectProtocol` stands there in front of
   aiohttp and cancels the handler's task: `cancelled_when_gone` surrounds every handler of the API (application.py) and
   every stream of the control socket (control).
2. A client that stays, and takes nothing of its stream for [api] idle_seconds, has its connection aborted by
   `StreamWatchdog`. That is the first case again; so is a write that fails.
3. The cancelled handler closes the iterator of `Dispatcher.generate` that it reads (`aclosing` in `complete_answer` and
   `_read`), and this ends the request wherever it is: in the queue, behind a load or in mid-answer. The dispatcher
   gives the NPU to the next request when the run has really ended (`Dispatcher._leave`). No other is touched.
4. Nobody is left to be told: nothing is written, and nothing is logged but the dispatcher's line for the request.

An answer's reader never waits for its client, since the next request starts when this one was read to its end.
What a slow client has not taken yet lies in `StreamBuffer`, bounded by the length of the answer itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

from exo_rkllm.api import faults
from exo_rkllm.api.context import Call
from exo_rkllm.api.encoding import SSE
from exo_rkllm.api.leniency import admitted, note_ignored
from exo_rkllm.backends.base import (
    Array,
    Finish,
    GenerationEvent,
    GenerationRequest,
    Ignored,
    Logprobs,
    Piece,
    Progress,
    TokenLogprob,
    ToolCall,
)
from exo_rkllm.chat.toolcall import read_tool_call
from exo_rkllm.errors import ExoRkllmError, RunError

# After so many silent seconds a stream begins all the same, so that no proxy gives up on a model that loads.
PULSE = 10.0


# ── a client that leaves ─────────────────────────────────────────────────────────────────────────


class DisconnectProtocol:
    """Stands between a transport and aiohttp's protocol: hands everything on, and calls `on_disconnect` at the end.

    aiohttp 3.8, which the boards' distributions carry, never tells a handler; later versions tell it only where the
    server was made with a flag.
    """

    def __init__(self, inner: asyncio.BaseProtocol, on_disconnect: Callable[[], object]) -> None:
        self._inner = inner
        self._on_disconnect = on_disconnect

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def connection_lost(self, error: Exception | None) -> None:
        self._inner.connection_lost(error)
        self._on_disconnect()


@contextmanager
def cancelled_when_gone(request: web.Request) -> Iterator[None]:
    """Cancels the current task when the request's connection ends."""
    task = asyncio.current_task()
    transport = request.transport
    if task is None or transport is None:
        raise asyncio.CancelledError
    inner = transport.get_protocol()
    transport.set_protocol(DisconnectProtocol(inner, task.cancel))  # type: ignore[arg-type]  # it is one by its methods
    try:
        yield
    finally:
        transport.set_protocol(inner)


# ── one body ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class CompleteAnswer:
    """One answer as it adds up. `thinking_tokens` counts the pieces of its thoughts."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    arrays: list[Array] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  # of the answer's text
    thinking_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()  # where the engine told them
    finish: Finish = field(default_factory=lambda: Finish("stop"))

    def add(self, event: GenerationEvent) -> None:
        if isinstance(event, Piece):
            if event.kind == "answer":
                self.texts.append(event.text)
                self.tokens.append(event.token)
            elif event.kind == "thinking":
                self.thoughts.append(event.text)
                self.thinking_tokens += 1
            else:
                self.tool_calls.append(read_tool_call(event))
        elif isinstance(event, Array) and event.rows and event.width:
            self.arrays.append(event)
        elif isinstance(event, Logprobs):
            self.logprobs = event.tokens
        elif isinstance(event, Finish):
            self.finish = event

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def reasoning(self) -> str:
        return "".join(self.thoughts)


async def complete_answer(call: Call, request: GenerationRequest, keep_alive: float | None = None) -> CompleteAnswer:
    answer = CompleteAnswer()
    request = admitted(call, request)
    events = call.context.dispatcher.generate(request, client=call.caller.client, keep_alive=keep_alive)
    async with aclosing(events):
        async for event in events:
            if type(event) is Ignored:
                note_ignored(call, request.model, event)
            else:
                answer.add(event)
    _check_finish(answer.finish)
    return answer


def _check_finish(finish: Finish | None) -> Finish:
    """No API has a word for an answer that somebody else ended: it is an error."""
    if finish is None or finish.reason == "abort":
        raise RunError("The run was ended from outside before its answer was complete.", "Ask again.")
    return finish


# ── a stream ─────────────────────────────────────────────────────────────────────────────────────


class StreamEncoder(Protocol):
    """Writes one answer in an API's language. Every method returns what goes onto the wire, perhaps nothing."""

    def piece(self, piece: Piece) -> str: ...

    def finish(self, finish: Finish) -> str: ...

    def failure(self, error: ExoRkllmError) -> str: ...


async def open_stream(call: Call, content_type: str) -> web.StreamResponse:
    """A response whose head is sent; proxies are told to hand on what comes."""
    headers = {"Content-Type": content_type, "Cache-Control": "no-store", "X-Accel-Buffering": "no", **call.headers}
    response = web.StreamResponse(headers=headers)
    await response.prepare(call.request)
    return response


async def stream_answers(
    call: Call,
    requests: list[GenerationRequest],
    encoder: StreamEncoder,
    content_type: str = SSE,
    keep_alive: float | None = None,
) -> web.StreamResponse:
    """The answers one after another in one stream; a refusal that comes before its first byte has its own status."""
    requests = [admitted(call, request) for request in requests]
    buffer = StreamBuffer()
    watchdog = StreamWatchdog(call, buffer, pulse=content_type == SSE)
    reader = asyncio.create_task(_read(call, requests, encoder, buffer, watchdog, keep_alive))
    try:
        await buffer.ready()
        response = await open_stream(call, content_type)
        while data := await buffer.take():
            with watchdog.writing():
                await response.write(data)
            buffer.direct_write = watchdog.direct_write(response)
        await response.write_eof()
    except ConnectionError:
        raise asyncio.CancelledError from None  # the client is gone
    finally:
        watchdog.close()
        reader.cancel()
        with suppress(asyncio.CancelledError):
            await reader
    return response


async def _read(
    call: Call,
    requests: list[GenerationRequest],
    encoder: StreamEncoder,
    buffer: StreamBuffer,
    watchdog: StreamWatchdog,
    keep_alive: float | None,
) -> None:
    """Puts even defects into the stream once it has begun, since its status was sent long ago."""

    def deliver(piece: Piece) -> bool:
        try:
            text = encoder.piece(piece)
        except Exception:  # noqa: BLE001 - the same piece comes by the iterator then, whose reader tells of it
            return False
        if text:
            buffer.put_at_once(text)
        return True

    try:
        for request in requests:
            events = call.context.dispatcher.generate(
                request, client=call.caller.client, keep_alive=keep_alive, deliver=deliver
            )
            finish = None
            async with aclosing(events):
                async for event in events:
                    if type(event) is Piece:
                        if text := encoder.piece(event):
                            buffer.put(text)
                    elif type(event) is Finish:
                        finish = event
                    elif type(event) is Progress:
                        watchdog.progress = event
                    elif type(event) is Ignored:
                        note_ignored(call, request.model, event)
            buffer.put(encoder.finish(_check_finish(finish)))
        buffer.close()
    except Exception as error:  # noqa: BLE001 - it is logged and told
        failure = faults.known_error(error, "A stream")
        if buffer.has_begun:
            buffer.put(encoder.failure(failure))
            buffer.close()
        else:
            buffer.close(failure)


class StreamBuffer:
    """Text between the reader of an answer and the writer of its connection: what is ready together leaves together.

    Once `direct_write` is set, it is tried first, and the writer wakes only where the connection has no room.
    """

    __slots__ = ("_due", "_error", "_loop", "_open", "_parts", "_waiter", "direct_write", "has_begun")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parts: list[str] = []
        self._waiter: asyncio.Future[None] | None = None
        self._open = True
        self._error: BaseException | None = None
        self._due = False
        self.has_begun = False
        self.direct_write: Callable[[bytes], bool] | None = None

    def put(self, text: str) -> None:
        """Delivered when the reader itself waits for something: hence the bundling."""
        self.has_begun = True
        self._parts.append(text)
        if not self._due and self._waiter is not None:
            self._due = True
            self._loop.call_soon(self._deliver)

    def put_at_once(self, text: str) -> None:
        """For what came alone: nothing else would join it in the turn of the loop that `put` waits."""
        self.has_begun = True
        self._parts.append(text)
        self._deliver()

    def _deliver(self) -> None:
        self._due = False
        if self._waiter is None or not self._parts:
            return  # the writer was faster
        if self.direct_write is not None and self.direct_write(self._encoded_parts()):
            self._parts.clear()
        else:
            self._wake()

    def close(self, error: BaseException | None = None) -> None:
        """Nothing more comes; `error` is raised to a writer that has not begun."""
        self._open = False
        self._error = error
        self._wake()

    async def ready(self) -> None:
        """Returns when there is something to write, and raises what ended the answer before there was."""
        while not self._parts and self._open:
            self._waiter = self._loop.create_future()
            await self._waiter
        if not self._parts and self._error is not None:
            raise self._error

    async def take(self) -> bytes:
        """Everything that is ready; empty at the end."""
        await self.ready()
        data = self._encoded_parts()
        self._parts.clear()
        return data

    def _encoded_parts(self) -> bytes:
        return "".join(self._parts).encode("ascii", "backslashreplace")

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class StreamWatchdog:
    """One timer a stream: begins it when nothing came for long, and ends it when its client takes nothing for long."""

    def __init__(self, call: Call, buffer: StreamBuffer, *, pulse: bool) -> None:
        self.progress = Progress("queued")
        self._transport = call.request.transport
        self._buffer = buffer
        self._pulse = pulse
        self._is_writing = False
        self._had_traffic = False
        self._blocked_seconds = 0.0
        self._idle_seconds = call.context.settings().config.idle_seconds
        self._period = min(PULSE, self._idle_seconds)
        self._timer = asyncio.get_running_loop().call_later(self._period, self._beat)

    @contextmanager
    def writing(self) -> Iterator[None]:
        self._is_writing = self._had_traffic = True
        yield
        self._is_writing = False

    def direct_write(self, response: web.StreamResponse) -> Callable[[bytes], bool]:
        """A function that writes onto the connection, or writes nothing and returns False where that would wait.

        aiohttp has sent the head by now, and frames each later write like this. See bench/direct_write.py.
        """
        transport, in_chunks = self._transport, "Transfer-Encoding" in response.headers

        def write(data: bytes) -> bool:
            if transport is None or transport.is_closing() or transport.get_write_buffer_size():
                return False
            self._had_traffic = True
            transport.write(b"%x\r\n%b\r\n" % (len(data), data) if in_chunks else data)
            return True

        return write

    def close(self) -> None:
        self._timer.cancel()

    def _beat(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._period, self._beat)
        self._blocked_seconds = self._blocked_seconds + self._period if self._is_writing else 0.0
        if self._blocked_seconds >= self._idle_seconds and self._transport is not None:
            self._transport.abort()
        elif self._pulse and not self._had_traffic:
            self._buffer.put(f": {self.progress.stage} {self.progress.done}\n\n")
        self._had_traffic = False
