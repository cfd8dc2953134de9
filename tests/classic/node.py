"""Drives an engine as classic exo's node does, without its networking.

As was observed of the real one: every first call gets the same dict of inference state; `sample` is called with `temp=`
and `ensure_shard` after it; a tensor that went to another node comes back read-only; what is raised after the first
token is swallowed, so that the client waits; whoever leaves says nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

EVERYBODYS: dict[str, Any] = {}


@dataclass(frozen=True)
class Shard:
    model_id: str
    start_layer: int
    end_layer: int
    n_layers: int


def whole(model_id: str, layers: int = 28) -> Shard:
    return Shard(model_id, 0, layers - 1, layers)


def ring(model_id: str, memory: Sequence[float], layers: int = 28) -> list[Shard]:
    """Layers in proportion to memory, the largest node first."""
    cuts = [round(sum(memory[:count]) / sum(memory) * layers) for count in range(len(memory) + 1)]
    return [Shard(model_id, first, last - 1, layers) for first, last in itertools.pairwise(cuts)]


@dataclass
class Answer:
    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    swallowed: Exception | None = None


async def ask(
    engines: Sequence[Any],
    shards: Sequence[Shard],
    prompt: str,
    request_id: str,
    *,
    leave_after: int = 10_000,
    timeout: float = 30.0,
) -> Answer:
    """After `leave_after` tokens the host asks no more, which the engine is not told."""
    answer = Answer()
    loading = [asyncio.ensure_future(engine.ensure_shard(shard)) for engine, shard in zip(engines, shards, strict=True)]
    try:
        result, state = await engines[0].infer_prompt(request_id, shards[0], prompt, EVERYBODYS)
        walking = _walk(answer, engines, shards, request_id, result, state, leave_after)
        await asyncio.wait_for(walking, timeout)
    finally:
        await asyncio.gather(*loading, return_exceptions=True)
        assert EVERYBODYS == {}, "the engine wrote into the state that every request shares"
    return answer


async def _walk(
    answer: Answer,
    engines: Sequence[Any],
    shards: Sequence[Shard],
    request_id: str,
    result: Any,
    state: Any,
    leave_after: int,
) -> None:
    """Round the ring, a token at a time."""
    at = 0
    while True:
        if shards[at].end_layer == shards[at].n_layers - 1:
            token = await engines[at].sample(result, temp=0.0)
            await engines[at].ensure_shard(shards[at])
            assert token.size == 1
            answer.tokens.append(token.item())
            assert -(2**31) <= token.item() < 2**31, "ids travel as int32"
            answer.ended = token.item() == engines[at].tokenizer.eos_token_id
            if answer.ended or len(answer.tokens) >= leave_after:
                return
            result = token.reshape(1, -1)
        at = (at + 1) % len(shards)
        if len(shards) > 1:
            assert not state, "the host cannot send a state that holds something"
            result, state = np.frombuffer(result.tobytes(), result.dtype).reshape(result.shape), {}
        try:
            result, state = await engines[at].infer_tensor(request_id, shards[at], result, state)
        except Exception as error:  # noqa: BLE001 - as the host does, whose client then waits for 900 s
            answer.swallowed = error
            await asyncio.Event().wait()
