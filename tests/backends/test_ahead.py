"""Runs that the model's process has before their turns: what goes ahead, what is taken back, and what is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.backends.base import Finish, GenerationEvent, GenerationRequest, Image, Message, Piece
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.errors import RunnerLost

Opened = Callable[..., AbstractAsyncContextManager[RkllmEngine]]
Events = AsyncGenerator[GenerationEvent, None]
LONG, NEXT = "word " * 8, "and then this"


def asks(prompt: str, **fields: Any) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, **fields)


async def begun(engine: RkllmEngine, request: GenerationRequest) -> Events:
    """Its answer, of which the first piece has come."""
    events = engine.generate(request)
    async for event in events:
        if isinstance(event, Piece):
            break
    return events


async def rest(events: Events) -> tuple[str, Finish]:
    heard = [event async for event in events]
    assert isinstance(heard[-1], Finish)
    return "".join(event.text for event in heard if isinstance(event, Piece)).strip(), heard[-1]


async def whole(engine: RkllmEngine, request: GenerationRequest) -> tuple[str, Finish]:
    return await rest(engine.generate(request))


async def test_run_goes_ahead_once_another_one_has_begun(opened: Opened, make_model: Callable[..., Path]) -> None:
    async with opened(make_model(reply="{user}", template="none", decode_tps=200.0)) as engine:
        assert not engine.queue_ahead(asks(NEXT)), "nothing runs that it could follow"
        plain, least = await whole(engine, asks(NEXT, max_tokens=9))
        present = await begun(engine, asks(LONG))
        follower, third = asks(NEXT, max_tokens=9), asks("never")
        assert engine.queue_ahead(follower)
        assert not engine.queue_ahead(third), "one is enough"
        assert (await rest(present))[1].reason == "stop"
        text, finish = await whole(engine, follower)
        assert (text, finish.reason, finish.usage.prompt) == (plain, least.reason, least.usage.prompt)
        assert finish.timings.queued < 0.05


@pytest.mark.parametrize(
    "fields",
    [
        {"output": "hidden"},
        {"images": (Image(b"x", "image/png"),)},
        {"lora": "tales"},
    ],
)
async def test_run_that_wants_something_done_before_waits(
    opened: Opened, make_model: Callable[..., Path], fields: dict[str, Any]
) -> None:
    async with opened(make_model(reply="{user}", template="none", decode_tps=200.0)) as engine:
        present = await begun(engine, asks(LONG))
        assert not engine.queue_ahead(asks(NEXT, **fields))
        assert not engine.queue_ahead(GenerationRequest(messages=(Message("user", NEXT),)))
        await present.aclose()


async def test_withdrawn_run_never_begins(opened: Opened, make_model: Callable[..., Path]) -> None:
    async with opened(make_model(reply="{user}", template="none", decode_tps=200.0)) as engine:
        present = await begun(engine, asks(LONG))
        follower = asks(NEXT)
        assert engine.queue_ahead(follower)
        ordered = engine._ahead
        assert ordered is not None
        engine.withdraw("nobody's")
        engine.withdraw(follower.id)
        assert not engine.queue_ahead(asks("too late")), "until the child has told what became of it"
        await rest(present)
        await engine.settled(follower.id)
        assert not ordered.runner.has_begun(ordered.number)
        assert (await whole(engine, asks("this instead")))[0] == "this instead"
        assert (await whole(engine, follower))[0] == NEXT, "it may be asked again"


async def test_run_that_has_begun_is_ended_where_it_is_withdrawn(
    opened: Opened, make_model: Callable[..., Path]
) -> None:
    async with opened(make_model(reply="{user}", template="none", decode_tps=100.0)) as engine:
        present = await begun(engine, asks("two words"))
        follower = asks("word " * 500)
        assert engine.queue_ahead(follower)
        ordered = engine._ahead
        assert ordered is not None
        await rest(present)
        while not ordered.stream.started:  # which nobody reads  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        engine.withdraw(follower.id)
        await engine.settled(follower.id)
        text, finish = await whole(engine, asks(NEXT))
        assert (text, finish.usage.guessed) == (NEXT, True), "nobody knows what the cache held"


async def test_another_requests_turn_takes_the_run_back(opened: Opened, make_model: Callable[..., Path]) -> None:
    async with opened(make_model(reply="{user}", template="none", decode_tps=200.0)) as engine:
        present = await begun(engine, asks(LONG))
        follower = asks(NEXT)
        assert engine.queue_ahead(follower)
        await rest(present)
        assert (await whole(engine, asks("before it")))[0] == "before it"
        assert (await whole(engine, follower))[0] == NEXT


async def test_present_run_may_be_left_or_stopped(opened: Opened, make_model: Callable[..., Path]) -> None:
    """Whatever ends it, the next one begins."""
    async with opened(make_model(reply="{user}", template="none", decode_tps=200.0)) as engine:
        for way in ("leave", "abort"):
            request = asks("word " * 500)
            present = await begun(engine, request)
            follower = asks(NEXT)
            assert engine.queue_ahead(follower)
            if way == "leave":
                await present.aclose()
                await engine.settled(request.id)
            else:
                await engine.abort(request.id)
                assert (await rest(present))[1].reason == "abort"
            assert (await whole(engine, follower))[0] == NEXT


async def test_lost_process_fails_the_run_that_it_had_ahead(opened: Opened, make_model: Callable[..., Path]) -> None:
    async with opened(make_model(reply="{user}", template="none", decode_tps=100.0)) as engine:
        present = await begun(engine, asks(LONG))
        follower = asks(NEXT)
        assert engine.queue_ahead(follower)
        engine._loaded()._kill()
        with pytest.raises(RunnerLost):
            await rest(present)
        with pytest.raises(RunnerLost):
            await whole(engine, follower)
        await engine.settled(follower.id)


async def test_reader_that_leaves_before_its_run_is_read_takes_it_back(
    opened: Opened, make_model: Callable[..., Path]
) -> None:
    async with opened(make_model(reply="{user}", template="none", decode_tps=200.0)) as engine:
        present = await begun(engine, asks(LONG))
        follower = asks("word " * 500)
        assert engine.queue_ahead(follower)
        await rest(present)
        async with aclosing(engine.generate(follower)):
            pass
        await engine.settled(follower.id)
        assert (await whole(engine, asks(NEXT)))[0] == NEXT


@pytest.mark.parametrize("max_tokens", [None, 5])
async def test_answer_has_as_much_room_as_in_its_turn(
    opened: Opened, make_model: Callable[..., Path], max_tokens: int | None
) -> None:
    model = make_model(reply="{user}", template="none", decode_tps=200.0)
    async with opened(model, context=256) as engine:
        follower = asks(NEXT + " word" * 20, max_tokens=max_tokens)
        await whole(engine, asks(LONG))
        job, _ = engine._job(follower)
        present = await begun(engine, asks(LONG))
        assert engine.queue_ahead(follower)
        assert engine._ahead is not None
        assert engine._ahead.job == job
        await present.aclose()
