"""Answers of the running daemon, over its control socket, as events of this process."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from exo_rkllm.backends.base import Finish, GenerationEvent, GenerationRequest, Ignored, Message, Piece, Timings, Usage
from exo_rkllm.client.control import LOGS, WENT_AWAY, not_running
from exo_rkllm.errors import RunnerLost, from_code

# A line of an answer is one token; figures and errors are longer.
LINE = 1 << 20


class AnswerSource(Protocol):
    """Who answers: the daemon, or a dispatcher of this process. Closing the iterator of `answer` ends that answer."""

    def answer(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]: ...

    async def load(self, model: str) -> None:
        """Returns when the model is in memory; raises why it cannot be."""

    async def close(self) -> None: ...


class DaemonSource:
    """POST /control/ask: one connection for each answer. The model stays in the daemon's memory after `close`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self, model: str) -> None:
        async with self._post("/control/load", {"model": model}) as reader:
            await reader.read()

    async def answer(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        fields = {"model": request.model, "client": request.id} | fields_of(request)
        async with self._post("/control/ask", fields) as reader:
            async for line in reader:
                event = event_of(json.loads(line))
                if event is not None:
                    yield event
                if isinstance(event, Finish):
                    return
        raise RunnerLost(WENT_AWAY, LOGS)

    @asynccontextmanager
    async def _post(self, path: str, fields: Mapping[str, Any]) -> AsyncGenerator[asyncio.StreamReader, None]:
        """The answer's body; no thread, so that whoever is cancelled leaves at once."""
        body = json.dumps(fields).encode()
        head = (
            f"POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            reader, writer = await asyncio.open_unix_connection(self._path, limit=LINE)
        except OSError:
            raise not_running([self._path]) from None
        try:
            writer.write(head.encode() + body)
            status = int((await reader.readline()).split()[1])
            while (await reader.readline()).strip():
                pass  # a header
            if status >= 400:
                raise from_code(**json.loads(await reader.read())["error"])
            yield reader
        except (ConnectionError, IndexError, ValueError) as error:
            raise RunnerLost("The daemon's answer on its control socket cannot be read.", LOGS) from error
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def close(self) -> None:
        pass


def _message(message: Message) -> dict[str, Any]:
    value: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.images:
        value["images"] = [base64.b64encode(image.data).decode() for image in message.images]
    return value


def fields_of(request: GenerationRequest) -> dict[str, Any]:
    """The request as the control socket takes it; what is not set is left out."""
    fields = {
        "prompt": request.prompt,
        "tokens": None if request.tokens is None else list(request.tokens),
        "messages": [_message(one) for one in request.messages] or None,
        "sampling": request.sampling.explicit() or None,
        "max_tokens": request.max_tokens,
        "thinking": request.thinking,
        "structure": None if request.structure is None else asdict(request.structure),
    }
    return {name: value for name, value in fields.items() if value is not None}


def event_of(line: dict[str, Any]) -> GenerationEvent | None:
    """A piece, the end, or what was ignored; None for progress. Raises the error that a line carries."""
    if "error" in line:
        raise from_code(**line["error"])
    if "text" in line:
        return Piece(line["text"], line["token"], line["kind"])
    if "ignored" in line:
        return Ignored(tuple(line["ignored"]["fields"]), line["ignored"]["why"])
    if "finish" not in line:
        return None
    end = line["finish"]
    return Finish(end["reason"], Usage(**end["usage"]), Timings(**end["timings"]))
