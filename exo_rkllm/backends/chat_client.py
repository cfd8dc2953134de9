"""Runs over HTTP: one connection a run, closed to end it; both engines that speak to a server have one of these."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import aiohttp

from exo_rkllm.backends.base import Event, Finish, Progress
from exo_rkllm.backends.chat_stream import Answer, said
from exo_rkllm.errors import Busy, ContextOverflow, ExoRkllmError, LoadError, ModelNotFound, RunError, RunnerLost

CONTEXT_WORDS = ("context length", "context size", "context window", "maximum context")
LONGEST_REPLY = 1 << 20


class ChatClient:
    """`who` names the server in every sentence. Nothing but `base` is ever asked: redirects are refused."""

    def __init__(self, who: str, base: str, key: str, *, silence: float, connect: float = 10.0) -> None:
        self.who = who
        self._base = base.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect, sock_read=silence)
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=False)
        self._silence = silence
        self._responses: dict[str, aiohttp.ClientResponse] = {}
        self._aborted: set[str] = set()
        self.lost: asyncio.Future[ExoRkllmError] = asyncio.get_running_loop().create_future()

    # ── plain questions ──────────────────────────────────────────────────────────────────────────

    async def get(self, path: str, *, root: bool = False) -> dict[str, Any]:
        """Of the API, or of the server's own root, where llama.cpp has its health and properties."""
        url = (self._base.removesuffix("/v1") if root else self._base) + path
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    raise await self._refusal(response)
                value = json.loads(await response.content.read(LONGEST_REPLY))
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise LoadError(f"{self.who} does not answer: {reason(error)}.", f"curl {url}") from None
        except ValueError:
            raise LoadError(f"{self.who} answers {path} with something that is no JSON.", f"curl {url}") from None
        return value if isinstance(value, dict) else {}

    # ── runs ─────────────────────────────────────────────────────────────────────────────────────

    async def run(self, request_id: str, path: str, body: dict[str, Any]) -> AsyncGenerator[Event, None]:
        self._check()
        asked, answer, first = time.monotonic(), Answer(), 0.0
        yield Progress("prefill")
        try:
            async with self._session.post(self._base + path, json=body, allow_redirects=False) as response:
                if response.status != 200:
                    raise await self._refusal(response)
                self._responses[request_id] = response
                async for data in response.content.iter_any():
                    first = first or time.monotonic()
                    for piece in answer.feed(data):
                        yield piece
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            if request_id not in self._aborted:
                self._check()
                raise RunnerLost(f"{self.who} went away in the middle of an answer: {reason(error)}.", "") from None
        finally:
            self._responses.pop(request_id, None)
            aborted = request_id in self._aborted
            self._aborted.discard(request_id)
        if aborted:
            yield Finish("abort")
            return
        self._check()
        if not answer.ended:
            raise RunnerLost(f"{self.who} ended an answer before its end.", "Ask again.")
        for event in answer.finish(0.0 if not first else first - asked, time.monotonic() - (first or asked)):
            yield event

    def abort(self, request_id: str) -> None:
        response = self._responses.get(request_id)
        if response is not None:
            self._aborted.add(request_id)
            response.close()

    # ── the end ──────────────────────────────────────────────────────────────────────────────────

    def fail(self, error: ExoRkllmError) -> None:
        """Everybody who waits hears it; the first reason counts."""
        if not self.lost.done():
            self.lost.set_result(error)
        for response in tuple(self._responses.values()):
            response.close()

    async def close(self, error: ExoRkllmError) -> None:
        self.fail(error)
        with suppress(aiohttp.ClientError):
            await self._session.close()

    def _check(self) -> None:
        if self.lost.done():
            raise self.lost.result()

    async def _refusal(self, response: aiohttp.ClientResponse) -> ExoRkllmError:
        """The server's status and words as one of our errors."""
        try:
            raw = await response.content.read(LONGEST_REPLY)
            held = json.loads(raw)
            words = said(held) if isinstance(held, dict) else "no reason given"
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
        if 300 <= status < 400:
            return LoadError(f"{self.who} sends its clients elsewhere, which is not followed.", "Name the right URL.")
        return RunError(f"{self.who} answers {status}: {words}.", "Look at its log.")


def retry_after(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), 3600.0) if text.isdecimal() else 1.0


def reason(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "it was silent for too long"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or "no connection"
    return "the connection broke"
