"""Where answers come from: the board's daemon where it runs, so that the NPU has one queue, else a dispatcher here."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from exo_rkllm.backends.base import Finish, GenerationEvent, GenerationRequest, Model, Piece, Timings, Usage
from exo_rkllm.errors import RunnerLost, from_code

if TYPE_CHECKING:
    from exo_rkllm.config import Config
    from exo_rkllm.dispatch.dispatcher import Dispatcher

# A line of an answer is one token; figures and errors are longer.
LINE = 1 << 20
DRAIN = 0.5
PLENTY = 1 << 62
BROKEN = "exo-rkllm logs"


class AnswerSource(Protocol):
    """Closing the iterator of `answer` ends that answer and no other."""

    def answer(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]: ...

    async def close(self) -> None: ...


class LocalSource:
    """For a board without a daemon: this process loads the model, into a child of its own as everywhere."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def answer(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        return self._dispatcher.generate(request, client=request.id)

    async def load(self, model: str) -> None:
        """For a host that has a step of its own for it."""
        await self._dispatcher.load(model)

    async def close(self) -> None:
        await self._dispatcher.drain(DRAIN)


class DaemonSource:
    """POST /control/ask on the daemon's socket; a connection an answer, and closing it is how one leaves."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def answer(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        asked: dict[str, Any] = {"model": request.model, "client": request.id}
        asked |= plain(request)
        body = json.dumps(asked).encode()
        head = (
            "POST /control/ask HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        reader, writer = await asyncio.open_unix_connection(self._path, limit=LINE)
        try:
            writer.write(head.encode() + body)
            status = int((await reader.readline()).split()[1])
            while (await reader.readline()).strip():
                pass  # a header
            if status >= 400:
                raise from_code(**json.loads(await reader.read())["error"])
            async for line in reader:
                event = read(json.loads(line))
                if event is not None:
                    yield event
                if isinstance(event, Finish):
                    return
        except (ConnectionError, IndexError, ValueError) as error:
            raise RunnerLost("The daemon talks nonsense on its control socket.", BROKEN) from error
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        raise RunnerLost("The daemon went away in the middle of its answer.", BROKEN)

    async def close(self) -> None:
        pass


def plain(request: GenerationRequest) -> dict[str, Any]:
    """The question as the control socket takes it, without what nobody said."""
    held = {
        "prompt": request.prompt,
        "tokens": None if request.tokens is None else list(request.tokens),
        "messages": [{"role": one.role, "content": one.content} for one in request.messages] or None,
        "sampling": request.sampling.explicit() or None,
        "max_tokens": request.max_tokens,
        "thinking": request.thinking,
    }
    return {name: value for name, value in held.items() if value is not None}


def read(line: dict[str, Any]) -> GenerationEvent | None:
    """The two things that whoever reads an answer wants to know; progress is left out."""
    if "error" in line:
        raise from_code(**line["error"])
    if "text" in line:
        return Piece(line["text"], line["token"], line["kind"])
    if "finish" not in line:
        return None
    end = line["finish"]
    return Finish(end["reason"], Usage(**end["usage"]), Timings(**end["timings"]))


def listening(sockets: tuple[Path, ...]) -> Path | None:
    """The first socket behind which somebody is; one that is closed to this user is as good as none."""
    for path in sockets:
        with socket.socket(socket.AF_UNIX) as trial:
            trial.settimeout(2.0)
            try:
                trial.connect(str(path))
            except OSError:
                continue
            return path
    return None


def local_source(find: Callable[[str], Model], config: Config) -> LocalSource:
    """One model at a time and no admission by memory: the host has asked for this model and knows no other answer."""
    from exo_rkllm import plugins
    from exo_rkllm.backends.host import engine_host
    from exo_rkllm.backends.registry import EngineRegistry
    from exo_rkllm.dispatch.dispatcher import Dispatcher
    from exo_rkllm.dispatch.state import DispatchLimits, ModelNeeds

    kinds = EngineRegistry(plugins.load().kinds)
    library = Path(config.runtime.library) if config.runtime.library else None
    host = engine_host(config, library, lambda _lines: None)
    return LocalSource(
        Dispatcher(
            find=find,
            engine=lambda model: kinds.make(model, host),
            needs=lambda _model: ModelNeeds(),
            available=lambda: PLENTY,
            limits=DispatchLimits(keep_alive=-1, max_loaded=1, reserve=0, queue_per_client=DispatchLimits().queue),
        )
    )
