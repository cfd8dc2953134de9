"""Current exo's runner as far as an engine meets it, as was seen of the real one (0.3.70).

It asks isinstance of the two classes; whatever else than an end an engine gives out is a chunk for the one who asked,
of a task that has not ended; and what an engine raises ends the runner. Chunks take exactly the fields that they have.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from exo_rkllm.exo_engine import Exo


class Builder(ABC):
    @abstractmethod
    def build(self) -> Any: ...


class Engine(ABC):
    @abstractmethod
    def step(self) -> Any: ...


@dataclass
class Chunk:
    model: str

    @classmethod
    def model_validate_json(cls, text: str) -> Chunk:
        ((name, fields),) = json.loads(text).items()
        assert name == cls.__name__
        return cls(**fields)


@dataclass
class TokenChunk(Chunk):
    text: str
    token_id: int
    usage: Any
    finish_reason: str | None = None
    stats: Any = None
    logprob: float | None = None
    top_logprobs: Any = None
    is_thinking: bool = False


@dataclass
class ErrorChunk(Chunk):
    error_message: str
    finish_reason: str = "error"
    diagnostics: Any = ()


@dataclass
class ToolCallChunk(Chunk):
    tool_calls: list[Any]
    usage: Any
    finish_reason: str = "tool_calls"
    stats: Any = None


@dataclass
class PrefillProgressChunk(Chunk):
    processed_tokens: int
    total_tokens: int


@dataclass
class ImageChunk(Chunk):
    data: str
    chunk_index: int
    total_chunks: int
    image_index: int
    is_partial: bool = False
    partial_index: int | None = None
    total_partials: int | None = None
    stats: Any = None
    format: str | None = None
    finish_reason: str | None = None
    error_message: str | None = None


class FinishedResponse:
    pass


class CancelledResponse:
    pass


EXO = Exo(
    base=SimpleNamespace(Builder=Builder, Engine=Engine),
    chunks=SimpleNamespace(**{one.__name__: one for one in Chunk.__subclasses__()}),
    responses=SimpleNamespace(FinishedResponse=FinishedResponse, CancelledResponse=CancelledResponse),
)


class Params(SimpleNamespace):
    def model_dump(self) -> dict[str, Any]:
        return vars(self)


@dataclass
class TextGeneration:
    task_id: str
    task_params: Params


@dataclass
class ImageGeneration:
    task_id: str
    task_params: Params


def task(name: str, text: str, **params: Any) -> TextGeneration:
    return TextGeneration(name, Params(**{"input": [{"role": "user", "content": text}], **params}))


class Cancels:
    """The pipe; `collect` empties it."""

    def __init__(self) -> None:
        self._sent: deque[str] = deque()

    def send(self, task_id: str) -> None:
        self._sent.append(task_id)

    def collect(self) -> list[str]:
        found = list(self._sent)
        self._sent.clear()
        return found


def instance(model: str, nodes: int = 1) -> Any:
    return SimpleNamespace(
        instance=SimpleNamespace(shard_assignments=SimpleNamespace(node_to_runner=dict.fromkeys(range(nodes), "r"))),
        bound_shard=SimpleNamespace(model_card=SimpleNamespace(model_id=model)),
    )


@dataclass
class Heard:
    """What the cluster is told of one task."""

    chunks: list[Chunk] = field(default_factory=list)
    complete: bool = False
    cancelled: bool = False

    @property
    def text(self) -> str:
        return "".join(one.text for one in self.chunks if isinstance(one, TokenChunk) and not one.is_thinking)

    @property
    def thinking(self) -> str:
        return "".join(one.text for one in self.chunks if isinstance(one, TokenChunk) and one.is_thinking)


class Runner:
    """Loads, warms up, and works until every task that it was given has ended."""

    def __init__(self, builder: Any, model: str) -> None:
        assert issubclass(type(builder), Builder)
        for _ in builder.load(instance(model)):
            pass
        self.engine: Any = builder.build()
        assert issubclass(type(self.engine), Engine)
        self.engine.warmup()
        self._active: dict[str, Heard] = {}

    def submit(self, *tasks: Any) -> list[Heard]:
        for one in tasks:
            self._active[one.task_id] = Heard()
            self.engine.submit(one)
        return [self._active[one.task_id] for one in tasks]

    def turn(self) -> None:
        ended: list[str] = []
        results: Iterable[tuple[str, Any]] = self.engine.step()
        for task_id, result in results:
            heard = self._active[task_id]
            if isinstance(result, CancelledResponse):
                heard.cancelled = True
                ended.append(task_id)
            elif isinstance(result, FinishedResponse):
                heard.complete = True
                ended.append(task_id)
            else:
                assert isinstance(result, Chunk)
                heard.chunks.append(result)
        for task_id in ended:
            self._active.pop(task_id, None)

    def work(self, *tasks: Any) -> list[Heard]:
        heard = self.submit(*tasks)
        while self._active:
            self.turn()
        return heard
