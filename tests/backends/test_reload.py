"""Runtimes before 1.3.0 take sampling at load only: where it is wanted so, the model is loaded again with it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from exo_rkllm.backends.base import Finish, GenerationEvent, GenerationRequest, Piece, Progress, Sampling
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.errors import ModelNotFound, NotSupported

# Each word is chosen by the sampling; greedy takes the first of each.
DICE = "[[a|b|c|d|e|f|g|h]] " * 24
GREEDY = ["a"] * 24
HOT, COLD = Sampling(temperature=2.0, top_k=8, top_p=1.0), Sampling(temperature=0, repeat_penalty=1.0)
Opened = Callable[..., AbstractAsyncContextManager[RkllmEngine]]


@pytest.fixture
def reloading(opened: Opened) -> Opened:
    return functools.partial(opened, version="1.2.3", policy="reload", sampling=COLD)


async def heard(engine: RkllmEngine, sampling: Sampling, prompt: str = "go") -> list[GenerationEvent]:
    return [event async for event in engine.generate(GenerationRequest(prompt=prompt, sampling=sampling))]


def words(events: list[GenerationEvent]) -> list[str]:
    return "".join(event.text for event in events if isinstance(event, Piece)).split()


@pytest.mark.parametrize("version", ["1.1.4", "1.2.0", "1.2.3"])
async def test_each_request_is_sampled_as_it_asked(
    reloading: Opened, make_model: Callable[..., Path], version: str
) -> None:
    async with reloading(make_model(reply=DICE, template="none"), version=version) as engine:
        first = engine.pid
        assert words(await heard(engine, Sampling())) == GREEDY
        hot = await heard(engine, HOT)
        assert Progress("loading") in hot
        assert words(hot) != GREEDY
        second = engine.pid
        assert second != first
        assert Progress("loading") not in await heard(engine, HOT), "the same once more needs no load"
        assert engine.pid == second
        assert words(await heard(engine, Sampling())) == GREEDY, "nobody inherits another one's sampling"
        lost = asyncio.ensure_future(engine.lost())
        await asyncio.sleep(0.05)
        assert not lost.done(), "a model that is loaded again is not lost"
        lost.cancel()


async def test_loading_again_is_told_apart_from_waiting(reloading: Opened, make_model: Callable[..., Path]) -> None:
    async with reloading(make_model(reply=DICE, template="none", load_seconds=0.5)) as engine:
        first, second = (await heard(engine, HOT))[-1], (await heard(engine, HOT))[-1]
        assert isinstance(first, Finish)
        assert isinstance(second, Finish)
        assert first.timings.load >= 0.5
        assert 0 <= first.timings.queued < first.timings.load
        assert second.timings.load == 0


async def test_requests_at_once_wait_for_one_another(reloading: Opened, make_model: Callable[..., Path]) -> None:
    async with reloading(make_model(reply=DICE, template="none")) as engine:
        cold, hot, again = await asyncio.gather(*(heard(engine, one) for one in (COLD, HOT, Sampling())))
    assert words(cold) == words(again) == GREEDY != words(hot)
    assert [type(events[-1]) for events in (cold, hot, again)] == [Finish] * 3


async def test_client_that_leaves_during_a_reload_leaves_a_working_model(
    reloading: Opened, make_model: Callable[..., Path]
) -> None:
    async with reloading(make_model(reply=DICE, template="none", load_seconds=0.3)) as engine:
        leaving = engine.generate(request := GenerationRequest(prompt="go", sampling=HOT))
        assert await anext(leaving) == Progress("loading")
        waits = asyncio.ensure_future(anext(leaving))
        await asyncio.sleep(0.05)
        waits.cancel()
        await asyncio.wait({waits})
        await engine.settled(request.id)
        assert words(await heard(engine, COLD)) == GREEDY


async def test_closing_during_the_load_ends_it(reloading: Opened, make_model: Callable[..., Path]) -> None:
    async with reloading(model := make_model(reply=DICE, template="none", load_seconds=0.2)) as engine:
        waits = asyncio.ensure_future(heard(engine, HOT))
        lost = asyncio.ensure_future(engine.lost())
        await asyncio.sleep(0.1)
        await engine.close()
        assert (await asyncio.wait_for(lost, 5)).code == "runner_lost"
        await asyncio.wait({waits})
        assert waits.exception() is not None
    assert model.exists()


async def test_a_load_that_fails_is_the_answers_error_and_the_engines_end(
    reloading: Opened, make_model: Callable[..., Path]
) -> None:
    async with reloading(model := make_model(reply=DICE, template="none")) as engine:
        lost = asyncio.ensure_future(engine.lost())
        model.unlink()
        with pytest.raises(ModelNotFound):
            await heard(engine, HOT)
        assert isinstance(await asyncio.wait_for(lost, 5), ModelNotFound)


async def test_other_sampling_is_refused_unless_reload_is_configured(
    reloading: Opened, make_model: Callable[..., Path]
) -> None:
    model = make_model(reply=DICE, template="none")
    async with reloading(model, policy="refuse") as engine:
        with pytest.raises(NotSupported, match="temperature, top_k, top_p only when") as caught:
            await heard(engine, HOT)
        assert '[runtime] sampling = "ignore" or "reload"' in caught.value.hint
    async with reloading(model, version="1.3.0") as engine:
        before = engine.pid
        assert words(await heard(engine, HOT)) != GREEDY
        assert engine.pid == before
