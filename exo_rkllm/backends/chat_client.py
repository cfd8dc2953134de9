"""Runs of a server with OpenAI's chat API, over HTTP: a connection a run, closed to end it; and the engines' base."""

from __future__ import annotations

import asyncio
import json
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from exo_rkllm.backends.base import Engine, Finish, GenerationEvent, GenerationRequest, Progress
from exo_rkllm.backends.chat_stream import ChatAnswer, error_words
from exo_rkllm.errors import (
    Busy,
    ContextOverflow,
    ExoRkllmError,
    LoadError,
    ModelNotFound,
    NotSupported,
    RunError,
    RunnerLost,
    UsageError,
    unloaded,
)

CONTEXT_WORDS = ("context length", "context size", "context window", "maximum context")
# llama.cpp says so with 500, vLLM and our own boards with 400.
IMAGE_WORDS = ("image input is not supported", "not a multimodal model", "does not see images")
LONGEST_REPLY = 1 << 20
CONNECT = 10.0


class ChatClient:
    """`who` names the server in every sentence. Only `base` is ever contacted: redirects are refused."""

    def __init__(self, who: str, base: str, key: str, *, silence: float, grace: float = 0.0) -> None:
        self.who = who
        self._base = base.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=silence)
        # A kept connection may be closed by the server in the moment that a run takes it: none is kept.
        self._session = aiohttp.ClientSession(
            headers=headers, timeout=timeout, trust_env=False, connector=aiohttp.TCPConnector(force_close=True)
        )
        self._ends: dict[str, Callable[[], object]] = {}  # what ends a run, by its request
        self._aborted: set[str] = set()
        self._grace = grace
        self.lost: asyncio.Future[ExoRkllmError] = asyncio.get_running_loop().create_future()

    # ── plain questions ──────────────────────────────────────────────────────────────────────────

    async def get(self, path: str, *, root: bool = False) -> dict[str, Any]:
        """A JSON object of the API, or of the server's `root`, where llama.cpp has its health and properties."""
        url = (self._base.removesuffix("/v1") if root else self._base) + path
        async with self._response("GET", url) as response:
            if response.status != 200:
                raise await self._refusal(response)
            try:
                value = json.loads(await whole(response))
            except ValueError:
                raise LoadError(f"{self.who} answers {path} with something that is no JSON.", f"curl {url}") from None
        return value if isinstance(value, dict) else {}

    async def knock(self) -> None:
        """Raises LoadError where the key is refused. By an empty request: llama.cpp lists its models without a key."""
        async with self._response("POST", self._base + "/chat/completions", json={}) as response:
            if response.status in (401, 403):
                raise await self._refusal(response)

    @asynccontextmanager
    async def _response(self, method: str, url: str, **arguments: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._session.request(method, url, allow_redirects=False, **arguments) as response:
                yield response
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise LoadError(f"{self.who} does not answer: {reason(error)}.", f"curl {url}") from None

    # ── runs ─────────────────────────────────────────────────────────────────────────────────────

    async def run(self, request_id: str, path: str, body: dict[str, Any]) -> AsyncGenerator[GenerationEvent, None]:
        self._check()
        began, answer, first = time.monotonic(), ChatAnswer(), 0.0
        opening = asyncio.ensure_future(self._session.post(self._base + path, json=body, allow_redirects=False))
        self._ends[request_id] = opening.cancel  # a server answers only after prefill, which may take minutes
        try:
            yield Progress("prefill")
            await asyncio.wait({opening})
            if not opening.cancelled() and request_id not in self._aborted:
                response = opening.result()
                self._ends[request_id] = response.close
                if response.status != 200:
                    raise await self._refusal(response)
                async for data in response.content.iter_any():
                    first = first or time.monotonic()
                    for piece in answer.feed(data):
                        yield piece
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            if request_id not in self._aborted:
                await self._obituary()
                when = "in the middle of an answer" if first else "before it answered"
                raise RunnerLost(
                    f"{self.who} went away {when}: {reason(error)}.", "Ask again.", "unreachable"
                ) from None
        finally:
            if not opening.cancel() and not opening.cancelled() and opening.exception() is None:
                opening.result().close()
            self._ends.pop(request_id, None)
            aborted = request_id in self._aborted
            self._aborted.discard(request_id)
        if aborted:
            yield Finish("abort")
            return
        if not answer.ended:
            await self._obituary()
            raise RunnerLost(f"{self.who} ended an answer before its end.", "Ask again.", "unreachable")
        self._check()
        for event in answer.finish(0.0 if not first else first - began, time.monotonic() - (first or began)):
            yield event

    def abort(self, request_id: str) -> None:
        end = self._ends.get(request_id)
        if end is not None:
            self._aborted.add(request_id)
            end()

    # ── the end ──────────────────────────────────────────────────────────────────────────────────

    def fail(self, error: ExoRkllmError) -> None:
        """Fails every waiting caller. The first reason stands for all later calls."""
        if not self.lost.done():
            self.lost.set_result(error)
        for end in tuple(self._ends.values()):
            end()

    async def close(self, error: ExoRkllmError) -> None:
        self.fail(error)
        with suppress(aiohttp.ClientError):
            await self._session.close()

    async def _obituary(self) -> None:
        """Raises why the server died, if it did: its connections break a moment before its exit status is known."""
        if self._grace:
            await asyncio.wait({self.lost}, timeout=self._grace)
        self._check()

    def _check(self) -> None:
        if self.lost.done():
            raise self.lost.result()

    async def _refusal(self, response: aiohttp.ClientResponse) -> ExoRkllmError:
        """The server's status and words as one of our errors."""
        try:
            value = json.loads(await whole(response))
            words = error_words(value) if isinstance(value, dict) else "no reason given"
        except (ValueError, aiohttp.ClientError):
            words = "no reason given"
        status = response.status
        if status in (401, 403):
            return LoadError(f"{self.who} refuses the key: {words}.", "Put the right one into the card's key file.")
        if status == 404:
            return ModelNotFound(f"{self.who} knows no such model or path: {words}.", "Look at its list of models.")
        if status == 429:
            return Busy(f"{self.who} is busy: {words}.", "Ask again later.", retry_after(response))
        if status in (400, 413) and any(word in words.lower() for word in CONTEXT_WORDS):
            return ContextOverflow(f"The prompt does not fit: {words}.", "Shorten the conversation.")
        if any(word in words.lower() for word in IMAGE_WORDS):
            return NotSupported(f"{self.who} takes no images: {words}.", "Ask without images.")
        if status in (400, 422):
            return UsageError(f"{self.who} refuses the request: {words}.", "Leave out what it does not take.")
        if 300 <= status < 400:
            return LoadError(f"{self.who} sends its clients elsewhere, which is not followed.", "Name the right URL.")
        return RunError(f"{self.who} answers {status}: {words}.", "Look at its log.")


class ChatServerEngine(Engine):
    """An engine whose model is behind such a server. `initialize` makes the client, which `close` closes."""

    _client: ChatClient | None = None

    @abstractmethod
    def body(self, request: GenerationRequest) -> tuple[str, dict[str, Any]]:
        """The path to post a request to, and what; raises NotSupported for what the server has no word for."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        client = self._loaded()
        run = client.run(request.id, *self.body(request))
        try:
            async for event in run:
                yield event
        finally:
            await run.aclose()

    async def abort(self, request_id: str) -> None:
        self._loaded().abort(request_id)

    async def lost(self) -> ExoRkllmError:
        return await asyncio.shield(self._loaded().lost)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close(unloaded(self.model.id))

    def _loaded(self) -> ChatClient:
        if self._client is None:
            raise RunnerLost(f"{self.model.id} is not loaded.", "Load it first: exo-rkllm load NAME")
        return self._client


async def whole(response: aiohttp.ClientResponse) -> bytes:
    """A reply's bytes. One longer than LONGEST_REPLY is cut, and is no JSON then."""
    value = b""
    async for data in response.content.iter_any():
        value += data
        if len(value) > LONGEST_REPLY:
            break
    return value


def retry_after(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), 3600.0) if text.isdecimal() else 1.0


def reason(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "it was silent for too long"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or "no connection"
    return "the connection broke"
