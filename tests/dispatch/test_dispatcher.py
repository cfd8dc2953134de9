"""Requests through the whole dispatcher, on engines that misbehave as they are told."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial

import pytest

from exo_rkllm.backends.base import (
    Capabilities,
    Finish,
    GenerationEvent,
    GenerationRequest,
    Image,
    Message,
    Model,
    Piece,
    Progress,
    Structure,
)
from exo_rkllm.chat.prompt import Prompt
from exo_rkllm.dispatch import dispatcher as dispatcher_module
from exo_rkllm.dispatch import life
from exo_rkllm.dispatch.decide import decide
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.dispatch.events import DispatchEffect, DispatchEvent, QueueLeftEvent
from exo_rkllm.dispatch.prompts import PromptMaker
from exo_rkllm.dispatch.state import DispatchLimits, DispatchState, ModelNeeds, ModelState
from exo_rkllm.dispatch.stuck import LIMITS, stuck_models
from exo_rkllm.errors import (
    Busy,
    ExoRkllmError,
    LoadError,
    ModelNotFound,
    NotSupported,
    NpuUnavailable,
    OutOfMemory,
    RunError,
    RunnerLost,
    TemplateError,
)
from tests.dispatch.puppet import Card, Puppet, Stage, Theatre, text, until


async def first_piece(events: AsyncGenerator[GenerationEvent, None]) -> Piece:
    async for event in events:
        if isinstance(event, Piece):
            return event
    raise AssertionError("no piece came")


# ── one request ──────────────────────────────────────────────────────────────────────────────────


async def test_an_answer_from_the_first_progress_to_the_finish() -> None:
    theatre = Theatre("qwen")
    theatre.stages["qwen"].load = 0.05
    events = [event async for event in theatre.ask("qwen", "one two")]
    assert events[0] == Progress("loading")
    assert text(events) == "one two"
    finish = events[-1]
    assert isinstance(finish, Finish)
    assert finish.reason == "stop"
    assert 0.05 <= finish.timings.load < 0.5
    assert 0.5 <= finish.timings.queued < 0.6, "the engine's own waiting counts, the load does not"
    again = [event async for event in theatre.ask("qwen")]
    assert isinstance(again[0], Piece), "a loaded idle model answers at once"
    assert isinstance(again[-1], Finish)
    assert again[-1].timings.load == 0


@pytest.mark.parametrize(("client", "ahead"), [("same", [3, 2, 1]), ("other", [1])])
async def test_waiting_request_hears_how_many_are_ahead_whenever_it_changes(client: str, ahead: list[int]) -> None:
    theatre = Theatre("qwen")
    await theatre.dispatcher.load("qwen")
    theatre.stages["qwen"].pace = 0.005
    answers = [asyncio.create_task(theatre.answer("qwen", client="same")) for _ in range(3)]
    await asyncio.sleep(0)
    events = [event async for event in theatre.ask("qwen", client=client)]
    assert [event.done for event in events if isinstance(event, Progress)] == ahead
    assert await asyncio.gather(*answers) == ["one two three"] * 3


async def test_progress_is_never_repeated() -> None:
    theatre = Theatre("qwen")
    theatre.stages["qwen"].load = 0.02
    first = theatre.ask("qwen")
    assert await first.__anext__() == Progress("loading")
    leaves = asyncio.create_task(theatre.answer("qwen"))
    await asyncio.sleep(0.005)
    leaves.cancel()
    assert isinstance(await first.__anext__(), Piece)


async def test_an_unknown_model_is_refused_before_anything() -> None:
    with pytest.raises(ModelNotFound):
        await Theatre("qwen").answer("gpt-4")


async def test_answers_of_32_clients_are_not_mixed_and_come_in_turns() -> None:
    theatre = Theatre("qwen")
    done: list[int] = []

    async def talk(number: int) -> None:
        for turn in range(4):
            said = f"client {number} turn {turn}"
            assert await theatre.answer("qwen", said, client=str(number)) == said
            done.append(number)

    await asyncio.gather(*(talk(number) for number in range(32)))
    for turn in range(4):
        assert sorted(done[turn * 32 : turn * 32 + 32]) == list(range(32))
    assert theatre.stages["qwen"].most_on_hardware == 1


async def test_the_same_reason_reaches_everybody_as_an_error_of_their_own() -> None:
    theatre = Theatre("qwen")
    theatre.stages["qwen"].fails.append(LoadError("It does not load.", "exo-rkllm doctor"))
    errors = await asyncio.gather(*(theatre.answer("qwen") for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in errors] == ["It does not load. exo-rkllm doctor"] * 3
    assert len({id(error) for error in errors}) == 3


# ── leaving ──────────────────────────────────────────────────────────────────────────────────────


async def test_client_that_leaves_the_queue_costs_the_others_nothing() -> None:
    theatre = Theatre("qwen")
    theatre.stages["qwen"].pace = 0.005
    running = asyncio.create_task(theatre.answer("qwen", "a b c d e f"))
    await until(lambda: theatre.stages["qwen"].started)
    leaves = asyncio.create_task(theatre.answer("qwen", "never said"))
    stays = asyncio.create_task(theatre.answer("qwen", "said"))
    await asyncio.sleep(0)
    leaves.cancel()
    assert await running == "a b c d e f"
    assert await stays == "said"
    assert len(theatre.stages["qwen"].started) == 2, "no prefill for who left"


@pytest.mark.parametrize("way", ["close", "cancel"])
async def test_client_that_leaves_an_answer_frees_the_npu_once_the_run_has_ended(way: str) -> None:
    theatre = Theatre("qwen", "gemma")
    for stage in theatre.stages.values():
        stage.pace = 0.002
        stage.abort_takes = 0.05
    await theatre.dispatcher.load("gemma")
    events = theatre.ask("qwen", "a b c d e f g h i j k l m")
    await first_piece(events)
    if way == "close":
        await events.aclose()
    else:
        reading = asyncio.ensure_future(events.__anext__())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    began = time.monotonic()
    await first_piece(theatre.ask("gemma"))
    assert time.monotonic() - began >= 0.045, "the abort took that long (reference 2.8)"
    assert theatre.stages["qwen"].on_hardware == 0


async def test_client_that_leaves_before_its_first_step_frees_the_place() -> None:
    theatre = Theatre("qwen")
    await theatre.dispatcher.load("qwen")
    theatre.stages["qwen"].pace = 0.002
    running = theatre.ask("qwen", "a")
    await first_piece(running)
    waits = asyncio.create_task(theatre.answer("qwen"))
    await asyncio.sleep(0)
    async for _ in running:
        pass
    waits.cancel()  # it was told to start, and has not run since
    assert await theatre.answer("qwen") == "one two three"


# ── stop strings, through chat ─────────────────────────────────────────────────────────────


def staged_dispatcher(stage: Stage) -> Dispatcher:
    class Plain(Puppet):
        @property
        def capabilities(self) -> Capabilities:
            return Capabilities(context=4096)

    return Dispatcher(
        find=Card,
        engine=lambda model: Plain(model, stage),
        needs=lambda model: ModelNeeds(),
        available=lambda: 1000,
    )


async def test_a_stop_string_ends_the_run_and_the_finish_has_the_engines_figures() -> None:
    stage = Stage(pace=0.001)
    dispatcher = staged_dispatcher(stage)
    words = "one two three four five six seven eight"
    request = GenerationRequest(model="qwen", prompt=words, stop=("three",))
    events = [event async for event in dispatcher.generate(request)]
    assert text(events) == "one two"
    finish = events[-1]
    assert isinstance(finish, Finish)
    assert (finish.reason, finish.usage.completion) == ("stop", 3)
    assert stage.on_hardware == 0


async def test_request_that_cannot_be_rendered_costs_no_run() -> None:
    stage = Stage()
    dispatcher = staged_dispatcher(stage)
    request = GenerationRequest(
        model="qwen", messages=(Message("user", "Hi", images=(Image(b"a picture", "image/png"),)),)
    )
    with pytest.raises(NotSupported, match="does not see images"):
        async for _ in dispatcher.generate(request):
            pass
    assert stage.started == []
    assert dispatcher.status().running == 0


# ── what breaks ──────────────────────────────────────────────────────────────────────────────────


async def test_a_crash_costs_one_answer_and_the_next_is_given_by_a_new_engine() -> None:
    theatre = Theatre("qwen")
    theatre.stages["qwen"].pace = 0.005
    doomed = asyncio.create_task(theatre.answer("qwen", "a b c d e f g h"))
    await until(lambda: theatre.stages["qwen"].started)
    waits = asyncio.create_task(theatre.answer("qwen"))
    await asyncio.sleep(0)
    theatre.puppet("qwen").die()
    with pytest.raises(RunnerLost, match="The puppet died"):
        await doomed
    assert await waits == "one two three"
    assert len(theatre.stages["qwen"].engines) == 2
    assert theatre.stages["qwen"].engines[0].closed


async def test_dead_engine_gets_no_other_request_before_its_loss_is_known() -> None:
    theatre = Theatre("qwen")
    await theatre.dispatcher.load("qwen")
    theatre.puppet("qwen").die()
    results = await asyncio.gather(*(theatre.answer("qwen") for _ in range(4)), return_exceptions=True)
    assert [type(result) for result in results].count(RunnerLost) == 1
    assert results.count("one two three") == 3


async def test_engine_that_raises_anything_is_refused_with_a_sentence() -> None:
    theatre = Theatre("qwen")
    theatre.stages["qwen"].fails.append(ZeroDivisionError("division by zero"))
    with pytest.raises(LoadError, match="The engine of qwen failed: ZeroDivisionError"):
        await theatre.answer("qwen")
    assert await theatre.answer("qwen") == "one two three"


async def test_an_engine_that_does_not_close_properly_is_left_behind() -> None:
    theatre = Theatre("qwen")
    await theatre.answer("qwen")
    theatre.stages["qwen"].close = ZeroDivisionError("division by zero")
    assert await theatre.dispatcher.unload("qwen")
    assert await theatre.answer("qwen") == "one two three"


async def test_engine_that_fails_to_settle_keeps_no_place() -> None:
    theatre = Theatre("qwen")
    theatre.stages["qwen"].settle = RunnerLost("Gone.")
    events = theatre.ask("qwen")
    await first_piece(events)
    await events.aclose()
    assert await theatre.answer("qwen") == "one two three"


async def test_an_engine_that_ends_without_a_finish_is_not_taken_for_an_answer() -> None:
    theatre = Theatre("qwen")
    theatre.stages["qwen"].silent = True
    with pytest.raises(RunError, match="ended an answer without saying so"):
        await theatre.answer("qwen")


async def test_npu_lost_before_the_first_step_is_the_reason_of_the_failure() -> None:
    theatre = Theatre("qwen")
    await theatre.dispatcher.load("qwen")
    running = theatre.ask("qwen", "a")
    await first_piece(running)
    waits = asyncio.create_task(theatre.answer("qwen"))
    await asyncio.sleep(0)
    lose = partial(theatre.dispatcher.npu_unavailable, NpuUnavailable("The NPU's driver was unbound."))
    asyncio.get_running_loop().call_soon(lose)  # the other was told to start by then, and has not yet
    async for _ in running:
        pass
    with pytest.raises(NpuUnavailable, match="unbound"):
        await waits
    assert len(theatre.stages["qwen"].started) == 1


async def test_npu_lost_during_an_answer_is_the_reason_the_client_hears() -> None:
    theatre = Theatre("qwen")
    theatre.stages["qwen"].pace = 0.005
    running = asyncio.create_task(theatre.answer("qwen", "a b c d e f g h"))
    await until(lambda: theatre.stages["qwen"].started)
    waits = asyncio.create_task(theatre.answer("qwen"))
    await asyncio.sleep(0)
    theatre.dispatcher.npu_unavailable(NpuUnavailable("The NPU's driver was unbound.", "exo-rkllm doctor"))
    with pytest.raises(NpuUnavailable, match="unbound"):
        await running
    with pytest.raises(NpuUnavailable, match="unbound"):
        await theatre.answer("qwen")
    assert theatre.dispatcher.status().unavailable_reason == "The NPU's driver was unbound."
    theatre.dispatcher.npu_available()
    assert await waits == "one two three"


# ── load, unload, memory ─────────────────────────────────────────────────────────────────────────


async def test_load_returns_when_it_is_ready_and_unload_when_it_is_gone() -> None:
    theatre = Theatre("qwen")
    await asyncio.gather(theatre.dispatcher.load("qwen"), theatre.dispatcher.load("qwen"))
    assert len(theatre.stages["qwen"].engines) == 1
    assert await theatre.dispatcher.unload("qwen") is True
    assert theatre.puppet("qwen").closed
    assert await theatre.dispatcher.unload("qwen") is False


async def test_load_raises_why_it_cannot_be() -> None:
    theatre = Theatre("qwen", memory=500)
    with pytest.raises(OutOfMemory, match="qwen needs"):
        await theatre.dispatcher.load("qwen")


async def test_unload_ends_a_load_that_takes_too_long() -> None:
    theatre = Theatre("qwen")
    theatre.stages["qwen"].load = 60
    loading = asyncio.create_task(theatre.dispatcher.load("qwen"))
    await until(lambda: theatre.stages["qwen"].engines)
    await theatre.dispatcher.unload("qwen")
    with pytest.raises(RunnerLost, match="unloaded before it was ready"):
        await loading
    assert theatre.puppet("qwen").closed


async def test_an_idle_model_makes_room_and_the_new_one_gets_its_own_domain() -> None:
    theatre = Theatre("qwen", "gemma", "llama", limits=DispatchLimits(reserve=0, max_loaded=2))
    for name in ("qwen", "gemma", "llama"):
        await theatre.answer(name)
    states = {model.name: model.state for model in theatre.dispatcher.status().models}
    assert states == {"qwen": "cold", "gemma": "ready", "llama": "ready"}
    assert theatre.puppet("gemma").model.domain == 1
    assert theatre.puppet("gemma").model.id == "gemma"


async def test_keep_alive_0_unloads_at_once_and_the_timer_unloads_later() -> None:
    theatre = Theatre("qwen", "gemma", limits=DispatchLimits(reserve=0, keep_alive=0.05))
    async for _ in theatre.ask("qwen", keep_alive=0.0):
        pass
    await until(lambda: theatre.puppet("qwen").closed)
    await theatre.answer("gemma")
    assert not theatre.puppet("gemma").closed
    began = time.monotonic()
    await until(lambda: theatre.puppet("gemma").closed)
    assert time.monotonic() - began >= 0.03


async def test_full_queue_refuses_with_retry_after() -> None:
    theatre = Theatre("qwen", limits=DispatchLimits(reserve=0, queue=1))
    theatre.stages["qwen"].pace = 0.01
    tasks = [asyncio.create_task(theatre.answer("qwen"))]
    await until(lambda: theatre.stages["qwen"].started)
    tasks.append(asyncio.create_task(theatre.answer("qwen")))
    await asyncio.sleep(0)
    with pytest.raises(Busy) as caught:
        await theatre.answer("qwen")
    assert caught.value.retry_after >= 1.0
    assert await asyncio.gather(*tasks) == ["one two three"] * 2


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_model_loaded_and_unloaded_in_one_turn_of_the_loop_can_be_loaded_again(turns: int) -> None:
    """The life's task was cancelled before its first step, so that the model was closing for ever."""
    theatre = Theatre("qwen")
    loading = asyncio.create_task(theatre.dispatcher.load("qwen"))
    for _ in range(turns):
        await asyncio.sleep(0)
    unloading = asyncio.create_task(theatre.dispatcher.unload("qwen"))
    done, _ = await asyncio.wait({loading, unloading}, timeout=2.0)
    assert done == {loading, unloading}
    loading.exception()
    assert await asyncio.wait_for(theatre.answer("qwen"), 2.0) == "one two three"


async def test_load_calls_a_pending_unload_off_and_tells_who_waits_for_it() -> None:
    theatre = Theatre("qwen")
    theatre.stages["qwen"].pace = 0.005
    running = asyncio.create_task(theatre.answer("qwen"))
    await until(lambda: theatre.stages["qwen"].started)
    unloading = asyncio.create_task(theatre.dispatcher.unload("qwen"))
    await asyncio.sleep(0)
    await theatre.dispatcher.load("qwen")
    assert await asyncio.wait_for(unloading, 2.0) is False
    assert await running == "one two three"
    assert theatre.dispatcher.status().models[0].state == "ready"


async def test_engine_that_refuses_to_be_cancelled_keeps_its_model_from_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "CLOSE", 0.02)
    theatre = Theatre("qwen")
    theatre.stages["qwen"].load = 60

    class Stubborn(Puppet):
        async def initialize(self) -> None:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            await asyncio.sleep(60)

        async def close(self) -> None:
            await self.initialize()

    theatre.dispatcher._make = lambda model: Stubborn(model, theatre.stages["qwen"])
    loading = asyncio.create_task(theatre.dispatcher.load("qwen"))
    await until(lambda: theatre.stages["qwen"].engines)
    assert await asyncio.wait_for(theatre.dispatcher.unload("qwen"), 2.0)
    with pytest.raises(RunnerLost):
        await loading
    theatre.dispatcher._make = lambda model: Puppet(model, theatre.stages["qwen"])
    theatre.stages["qwen"].load = 0
    assert await asyncio.wait_for(theatre.answer("qwen"), 2.0) == "one two three"


async def test_load_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "LOAD", 0.05)
    theatre = Theatre("qwen")
    theatre.stages["qwen"].load = 60
    with pytest.raises(LoadError, match="qwen did not load within 0 s"):
        await asyncio.wait_for(theatre.dispatcher.load("qwen"), 2.0)
    theatre.stages["qwen"].load = 0
    assert await asyncio.wait_for(theatre.answer("qwen"), 2.0) == "one two three"


async def test_engine_that_never_settles_is_lost_and_the_next_request_gets_a_new_one() -> None:
    """Whoever left kept the NPU from everybody, for ever."""
    theatre = Theatre("qwen")
    stage = theatre.stages["qwen"]
    stage.abort_takes = 60
    events = theatre.ask("qwen")
    await first_piece(events)
    theatre.puppet("qwen").settle_seconds = 0.05
    await events.aclose()
    assert await asyncio.wait_for(theatre.answer("qwen"), 2.0) == "one two three"
    assert len(stage.engines) == 2
    assert theatre.seen.restarts, "it counts as a lost engine"


def test_model_is_stuck_once_its_phase_lasts_longer_than_its_limit() -> None:
    state = DispatchState().put(ModelState("qwen", phase="closing", since=100.0))
    state = state.put(ModelState("gemma", phase="ready", since=0.0)).put(ModelState("old", phase="loading", since=0.0))
    assert stuck_models(state, 100.0 + LIMITS["closing"]) == ()
    (model,) = stuck_models(state, 101.0 + LIMITS["closing"])
    assert (model.name, model.phase, model.hint) == ("qwen", "closing", "sudo systemctl restart exo-rkllm")
    assert model.sentence == "qwen has been closing for 61 s, and no model can be loaded meanwhile."
    assert [one.name for one in stuck_models(state, 1.0 + LIMITS["loading"])] == ["old", "qwen"]


async def test_engine_that_says_it_is_dead_to_a_request_only_is_closed() -> None:
    """Its `lost` never returns, and the model was closing for ever."""
    theatre = Theatre("qwen")

    class Silent(Puppet):
        async def lost(self) -> ExoRkllmError:
            await asyncio.sleep(60)
            return await super().lost()

    theatre.dispatcher._make = lambda model: Silent(model, theatre.stages["qwen"])
    await theatre.dispatcher.load("qwen")
    theatre.puppet("qwen").die()
    with pytest.raises(RunnerLost):
        await theatre.answer("qwen")
    theatre.dispatcher._make = lambda model: Puppet(model, theatre.stages["qwen"])
    assert await asyncio.wait_for(theatre.answer("qwen"), 2.0) == "one two three"


# ── configuration, the end ───────────────────────────────────────────────────────────────────────


async def test_new_limits_drop_no_request() -> None:
    theatre = Theatre("qwen")
    theatre.stages["qwen"].pace = 0.002
    tasks = [asyncio.create_task(theatre.answer("qwen")) for _ in range(6)]
    await until(lambda: theatre.stages["qwen"].started)
    theatre.dispatcher.reconfigure(DispatchLimits(reserve=0, queue=1, keep_alive=9.0))
    assert await asyncio.gather(*tasks) == ["one two three"] * 6
    (model,) = theatre.dispatcher.status().models
    assert model.unload_at is not None
    assert model.unload_at == pytest.approx(time.time() + 9, abs=1)


async def test_drain_lets_the_answer_end_and_closes_everything() -> None:
    theatre = Theatre("qwen", "gemma")
    await theatre.dispatcher.load("gemma")
    theatre.stages["qwen"].pace = 0.005
    running = asyncio.create_task(theatre.answer("qwen"))
    await until(lambda: theatre.stages["qwen"].started)
    waits = asyncio.create_task(theatre.answer("qwen"))
    await asyncio.sleep(0)
    await theatre.dispatcher.drain(5.0)
    assert await running == "one two three"
    with pytest.raises(Busy, match="shutting down"):
        await waits
    assert theatre.puppet("qwen").closed
    assert theatre.puppet("gemma").closed
    assert theatre.dispatcher.status().draining


async def test_drain_stops_waiting_at_its_timeout() -> None:
    theatre = Theatre("qwen")
    theatre.stages["qwen"].pace = 60.0
    running = asyncio.create_task(theatre.answer("qwen"))
    await until(lambda: theatre.stages["qwen"].started)
    await theatre.dispatcher.drain(0.05)
    with pytest.raises(Busy, match="shutting down"):
        await running


# ── what is to be seen ───────────────────────────────────────────────────────────────────────────


async def test_status_shows_running_and_waiting_requests() -> None:
    theatre = Theatre("qwen")
    await theatre.dispatcher.load("qwen", pin=True)
    theatre.stages["qwen"].pace = 0.01
    running = theatre.ask("qwen", client="ann")
    await first_piece(running)
    waits = asyncio.create_task(theatre.answer("qwen", client="bob"))
    await asyncio.sleep(0)
    (model,) = theatre.dispatcher.status().models
    assert (model.name, model.engine, model.state) == ("qwen", "puppet", "ready")
    assert (model.memory, model.domain, model.context, model.pinned) == (1000, 0, 4096, True)
    assert [(run.client, run.tokens) for run in model.running] == [("ann", 1)]
    assert [(wait.client, wait.ahead) for wait in model.waiting] == [("bob", 1)]
    assert model.unload_at is None
    assert abs(model.since - time.time()) < 1
    async for _ in running:
        pass
    await waits
    assert (theatre.dispatcher.status().running, theatre.dispatcher.status().waiting) == (0, 0)


async def test_subscribers_hear_of_every_change_and_not_of_tokens() -> None:
    theatre = Theatre("qwen")
    seen: list[tuple[str, int]] = []

    async def watch() -> None:
        async with aclosing(theatre.dispatcher.subscribe()) as changes:
            async for status in changes:
                seen.extend((model.state, status.running) for model in status.models)

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0)
    theatre.stages["qwen"].load = theatre.stages["qwen"].pace = 0.005
    await theatre.answer("qwen", "a b c d e f g h i j")
    await asyncio.sleep(0)
    assert seen == [("loading", 0), ("ready", 1), ("ready", 0)]
    watcher.cancel()
    await asyncio.wait([watcher])
    assert not theatre.dispatcher._followers._changed


async def test_error_of_a_failed_load_is_kept_until_the_model_is_ready() -> None:
    theatre = Theatre("qwen")
    theatre.stages["qwen"].fails.append(LoadError("It does not load.", "exo-rkllm doctor"))
    with pytest.raises(ExoRkllmError):
        await theatre.dispatcher.load("qwen")
    (model,) = theatre.dispatcher.status().models
    assert (model.error, model.hint) == ("It does not load.", "exo-rkllm doctor")
    await theatre.answer("qwen")
    (model,) = theatre.dispatcher.status().models
    assert model.error == ""


async def test_a_card_that_changed_counts_from_the_next_load_on() -> None:
    theatre = Theatre("qwen")
    await theatre.answer("qwen")
    theatre.needs = replace(theatre.needs, memory=5000)
    await theatre.answer("qwen")
    assert theatre.dispatcher._state.models["qwen"].needs.memory == 1000
    await theatre.dispatcher.unload("qwen")
    await theatre.answer("qwen")
    assert theatre.dispatcher._state.models["qwen"].needs.memory == 5000


async def test_observer_hears_of_every_answer_load_and_crash() -> None:
    theatre = Theatre("qwen")
    seen, stage = theatre.seen, theatre.stages["qwen"]
    stage.load = 0.01
    await theatre.answer("qwen", "one two three")
    (answer,) = seen.answers
    assert (answer.model, answer.reason, answer.usage.completion) == ("qwen", "stop", 3)
    assert answer.first_token is not None
    assert 0.01 <= answer.first_token <= answer.seconds
    assert answer.gaps is not None
    assert sum(answer.gaps.counts) == 2
    (load,) = seen.loads
    assert (load.model, load.error) == ("qwen", "")
    assert load.seconds >= 0.01

    stage.pace = 0.002
    leaves = theatre.ask("qwen", "a b c d e f g")
    await first_piece(leaves)
    await leaves.aclose()
    assert (seen.answers[-1].reason, seen.answers[-1].usage.completion) == ("abort", 1)

    doomed = asyncio.create_task(theatre.answer("qwen", "a b c d e f g"))
    await until(lambda: len(stage.started) == 3)
    stage.fails.append(LoadError("Not again."))
    theatre.puppet("qwen").die()
    with pytest.raises(RunnerLost):
        await doomed
    assert [restart.reason for restart in seen.restarts] == ["crash"]
    with pytest.raises(LoadError):
        await theatre.answer("qwen")
    assert [answer.reason for answer in seen.answers[2:]] == ["runner_lost", "load_failed"]
    assert [load.error for load in seen.loads] == ["", "load_failed"]


async def test_requests_that_leave_together_are_one_decision_and_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """512 clients that left at once took the loop a second: each of them looked at all the others."""
    caplog.set_level("INFO", "exo_rkllm.dispatch")
    theatre = Theatre("qwen", limits=DispatchLimits(reserve=0, queue=200, queue_per_client=200))
    theatre.stages["qwen"].pace = 0.01
    await theatre.dispatcher.load("qwen")
    tasks = [asyncio.ensure_future(theatre.answer("qwen", "a " * 50, client=f"{number % 7}")) for number in range(100)]
    await until(lambda: theatre.dispatcher.status().waiting == 99)
    events: list[object] = []

    def counted(state: DispatchState, event: DispatchEvent, now: float) -> tuple[DispatchState, list[DispatchEffect]]:
        events.append(event)
        return decide(state, event, now)

    monkeypatch.setattr(dispatcher_module, "decide", counted)
    caplog.clear()
    for task in tasks[1:]:
        task.cancel()
    await asyncio.wait(tasks[1:])
    assert theatre.dispatcher.status().waiting == 0
    await asyncio.sleep(0)
    (left,) = events
    assert isinstance(left, QueueLeftEvent) and len(left.tickets) == 99
    (line,) = caplog.messages
    assert re.fullmatch(r"qwen: abort, 99 requests before their turn, after \d\.\d to \d\.\d s\.", line)
    tasks[0].cancel()
    await asyncio.wait(tasks)


async def test_request_that_leaves_alone_has_a_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "exo_rkllm.dispatch")
    theatre = Theatre("qwen")
    theatre.stages["qwen"].pace = 0.01
    await theatre.dispatcher.load("qwen")
    tasks = [asyncio.ensure_future(theatre.answer("qwen", "a " * 50, client=f"{number}")) for number in range(3)]
    await until(lambda: theatre.dispatcher.status().waiting == 2)
    caplog.clear()
    for task in tasks[1:]:
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)
    assert all("qwen: abort, 0 tokens out in " in message for message in caplog.messages)
    assert [record.__dict__["client"] for record in caplog.records] == ["1", "2"]
    tasks[0].cancel()
    await asyncio.wait(tasks)


async def test_request_that_left_is_never_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves in the same turn of the loop in which the answer before it ends."""
    theatre = Theatre("qwen")
    theatre.stages["qwen"].pace = 0.01
    await theatre.dispatcher.load("qwen")
    first = asyncio.ensure_future(theatre.answer("qwen", "one two"))
    await until(lambda: theatre.dispatcher.status().running)
    gone, last = (asyncio.ensure_future(theatre.answer("qwen", words)) for words in ("gone", "last"))
    await until(lambda: theatre.dispatcher.status().waiting == 2)
    first.add_done_callback(lambda _first: gone.cancel())
    assert (await first, await last) == ("one two", "last")
    await asyncio.wait([gone])


async def test_following_the_status_asks_no_process_for_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change of each answer read /proc for every follower: a tenth of what a short answer takes."""
    theatre = Theatre("qwen")
    await theatre.dispatcher.load("qwen")
    looks: list[Puppet] = []
    monkeypatch.setattr(Puppet, "memory", property(looks.append))
    seen: list[object] = []

    async def follow() -> None:
        async with aclosing(theatre.dispatcher.subscribe()) as overviews:
            async for overview in overviews:
                seen.append(overview)  # noqa: PERF401 - seen while it goes on

    followers = [asyncio.create_task(follow()) for _ in range(3)]
    await asyncio.sleep(0)
    await theatre.answer("qwen")
    await asyncio.sleep(0)
    assert len({id(overview) for overview in seen}) * 3 == len(seen) > 3, "one overview for all who follow"
    assert not looks
    for follower in followers:
        follower.cancel()
    await asyncio.wait(followers)


async def test_next_run_starts_before_the_end_of_the_last_answer_is_read() -> None:
    """A client that takes its last words late kept the NPU waiting."""
    theatre = Theatre("qwen")
    await theatre.dispatcher.load("qwen")
    first = theatre.ask("qwen", "one")
    await first_piece(first)
    second = asyncio.create_task(theatre.answer("qwen", "two"))
    await until(lambda: theatre.dispatcher.status().waiting)
    events: list[GenerationEvent] = []
    async for event in first:
        events.append(event)
        if type(event) is Finish:
            await until(lambda: len(theatre.stages["qwen"].started) == 2)
            assert await second == "two"
    assert len([event for event in events if type(event) is Finish]) == 1
    assert [report.reason for report in theatre.seen.answers] == ["stop", "stop"]


async def test_prompt_is_made_while_the_answer_before_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    theatre = Theatre("qwen")
    theatre.stages["qwen"].pace = 0.02
    await theatre.dispatcher.load("qwen")
    made: list[str] = []
    render = PromptMaker.render

    async def noted(maker: PromptMaker, request: GenerationRequest, model: Model, capabilities: Capabilities) -> Prompt:
        made.append(request.prompt or "")
        if request.prompt == "bad":
            raise TemplateError("It refuses this.")
        return await render(maker, request, model, capabilities)

    monkeypatch.setattr(PromptMaker, "render", noted)
    tasks = [asyncio.create_task(theatre.answer("qwen", words)) for words in ("one two three", "next", "bad", "last")]
    await until(lambda: len(made) == 2)
    assert made == ["one two three", "next"], "of those who wait, the next one only"
    assert theatre.stages["qwen"].started and theatre.dispatcher.status().waiting == 3
    assert (await tasks[0], await tasks[1]) == ("one two three", "next")
    with pytest.raises(TemplateError):
        await tasks[2]
    assert await tasks[3] == "last"
    assert sorted(made) == ["bad", "last", "next", "one two three"], "each of them once"


async def test_prompt_that_was_made_for_another_engine_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine takes may have changed, as with an encoder that came meanwhile."""
    theatre = Theatre("qwen")
    await theatre.dispatcher.load("qwen")
    request = GenerationRequest(model="qwen", prompt="hi")
    early = theatre.dispatcher._prompts.early(request, Card("qwen"), theatre.puppet("qwen"), lambda: None)
    first = await early.of(theatre.puppet("qwen"))
    assert await early.of(theatre.puppet("qwen")) is first
    monkeypatch.setattr(Puppet, "capabilities", property(lambda _puppet: Capabilities(chat=True, context=8192)))
    assert await early.of(theatre.puppet("qwen")) is not first


async def test_next_run_is_handed_to_the_engine_before_its_turn() -> None:
    theatre = Theatre("qwen")
    stage = theatre.stages["qwen"]
    stage.pace, stage.goes_ahead = 0.01, True
    answers = [asyncio.ensure_future(theatre.answer("qwen", client=name)) for name in "abc"]
    assert await asyncio.gather(*answers) == ["one two three"] * 3
    assert stage.ahead == stage.started[1:]
    assert not stage.withdrawn
    await theatre.dispatcher.drain(0)


async def test_lease_waits_for_a_run_that_was_taken_back() -> None:
    """It may have begun a moment before."""
    theatre = Theatre("qwen")
    stage = theatre.stages["qwen"]
    stage.pace, stage.goes_ahead, stage.abort_takes = 0.02, True, 0.1
    answers = [asyncio.ensure_future(theatre.answer("qwen", client=name)) for name in "ab"]
    await until(lambda: stage.ahead)
    async with theatre.dispatcher.lease("frigate"):
        assert (stage.withdrawn, stage.on_hardware, answers[0].done()) == (stage.ahead, 0, True)
    assert await asyncio.gather(*answers) == ["one two three"] * 2
    assert stage.most_on_hardware <= 2
    await theatre.dispatcher.drain(0)


async def test_client_that_leaves_takes_its_run_back_and_the_next_goes_on() -> None:
    theatre = Theatre("qwen")
    stage = theatre.stages["qwen"]
    stage.pace, stage.goes_ahead = 0.02, True
    first, leaving, last = (asyncio.ensure_future(theatre.answer("qwen", client=name)) for name in "abc")
    await until(lambda: stage.ahead)
    leaving.cancel()
    assert [await first, await last] == ["one two three"] * 2
    assert stage.withdrawn == stage.ahead[:1]
    assert len(stage.started) == 2
    await theatre.dispatcher.drain(0)


async def test_crash_costs_the_run_ahead_nothing_but_time() -> None:
    theatre = Theatre("qwen")
    stage = theatre.stages["qwen"]
    stage.pace, stage.goes_ahead = 0.02, True
    first, second = (asyncio.ensure_future(theatre.answer("qwen", client=name)) for name in "ab")
    await until(lambda: stage.ahead)
    theatre.puppet("qwen").die()
    with pytest.raises(RunnerLost):
        await first
    assert await second == "one two three"
    assert len(stage.engines) == 2
    await theatre.dispatcher.drain(0)


async def test_answer_that_may_be_repaired_lets_nothing_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other runs come before the next request's."""

    async def held(
        _maker: PromptMaker, request: GenerationRequest, _model: Model, _capabilities: Capabilities
    ) -> Prompt:
        return replace(Prompt.of(request), structure=Structure("json") if request.prompt == "held" else None)

    monkeypatch.setattr(PromptMaker, "render", held)
    monkeypatch.setattr(PromptMaker, "answer", lambda _maker, engine, prompt, _parser: engine.generate(prompt.request))
    theatre = Theatre("qwen")
    stage = theatre.stages["qwen"]
    stage.pace, stage.goes_ahead = 0.02, True
    words = ["held", "one two", "held"]
    answers = [
        asyncio.ensure_future(theatre.answer("qwen", word, client=word + str(n))) for n, word in enumerate(words)
    ]
    assert await asyncio.gather(*answers) == words
    assert stage.ahead == []
    await theatre.dispatcher.drain(0)
