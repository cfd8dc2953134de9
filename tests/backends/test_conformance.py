"""Whatever answers behind the `Engine` seam keeps the same promises; a new backend adds a row here."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from exo_rkllm.backends.base import (
    SAMPLING_NAMES,
    Engine,
    Finish,
    GenerationEvent,
    GenerationRequest,
    Message,
    Piece,
    Progress,
    Sampling,
)
from exo_rkllm.backends.dummy import DummyEngine, DummyModel
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.llamacpp import free_port
from exo_rkllm.backends.registry import EngineRegistry
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.backends.rkllm_file import RkllmFile
from exo_rkllm.catalogue.card import Card
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.errors import ContextOverflow, ExoRkllmError, NotSupported, RunnerLost
from exo_rkllm.runtime.locate import only
from tests.simulated import VERSIONS, Library

HOST = EngineHost(lambda _lines: None)
QUESTION = "one two three four five six seven eight nine ten"


BACKENDS = ("dummy", "llamacpp", "openai", *VERSIONS)


@pytest.fixture(params=BACKENDS)
def make_engine(
    request: pytest.FixtureRequest,
    library: Library,
    board_root: Path,
    make_model: Callable[..., Path],
    gguf: Callable[..., Entry],
    far: Callable[[int], Entry],
) -> Callable[[int], Engine]:
    """An engine whose model repeats the question, with so many tokens of context."""
    if request.param == "llamacpp":
        return lambda context: EngineRegistry().make(gguf(context), HOST)
    if request.param == "openai":
        return lambda context: EngineRegistry().make(far(context), HOST)
    if request.param == "dummy":
        return lambda context: DummyEngine(DummyModel(context=context))
    model = make_model(reply="{user}", max_context=4096, template="none")
    host = EngineHost(lambda _lines: None, only(library(request.param)), "RK3588", (4, 5, 6, 7))  # as on a board
    return lambda context: RkllmEngine(RkllmFile(model, context), host)


@pytest.fixture
def far(gguf: Callable[..., Entry]) -> Iterator[Callable[[int], Entry]]:
    """Servers in processes of their own, since the tests' loop is busy with the engine."""
    running: list[subprocess.Popen[bytes]] = []

    def start(context: int) -> Entry:
        port, near = free_port(), gguf(context)
        command = [str(near.card.options["program"]), "-m", "far", "--host", "127.0.0.1", "--port", str(port)]
        environment = {**os.environ, "LLAMA_API_KEY": ""}
        running.append(subprocess.Popen([*command, "-c", str(context)], env=environment, stdout=subprocess.DEVNULL))
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        options = {"base_url": f"http://127.0.0.1:{port}/v1"}
        return Entry(near.folder, Card("far", engine="openai", context=context, options=options))

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest_asyncio.fixture
async def engine(make_engine: Callable[[int], Engine]) -> AsyncIterator[Engine]:
    engine = make_engine(4096)
    await engine.initialize()
    yield engine
    await engine.close()


def ask(text: str = QUESTION, max_tokens: int | None = None) -> GenerationRequest:
    return GenerationRequest(messages=(Message("user", text),), max_tokens=max_tokens)


async def answer(engine: Engine, request: GenerationRequest) -> tuple[str, Finish]:
    events = [event async for event in engine.generate(request)]
    assert isinstance(events[-1], Finish)
    assert sum(isinstance(event, Finish) for event in events) == 1
    return "".join(event.text for event in events if isinstance(event, Piece)), events[-1]


@pytest.mark.seed("4.3", "Engine.initialize, generate, warmup")
async def test_answer_is_pieces_and_one_finish(engine: Engine) -> None:
    text, finish = await answer(engine, ask())
    assert text == QUESTION
    assert finish.reason == "stop"
    assert finish.usage.completion >= 10


async def test_prefill_is_announced_before_the_first_piece(engine: Engine) -> None:
    events = [event async for event in engine.generate(ask())]
    assert isinstance(events[0], Progress)


async def test_max_tokens_ends_the_answer_by_length(engine: Engine) -> None:
    text, finish = await answer(engine, ask(max_tokens=3))
    assert QUESTION.startswith(text)
    assert (finish.reason, finish.usage.completion) == ("length", 3)


async def test_a_limit_that_is_not_reached_is_no_length(engine: Engine) -> None:
    _, finish = await answer(engine, ask(max_tokens=1000))
    assert finish.reason == "stop"


async def test_answers_to_requests_started_together_are_never_mixed(engine: Engine) -> None:
    questions = [" ".join(f"{name}{i}" for i in range(20)) for name in ("alpha", "beta", "gamma", "delta")]
    answers = await asyncio.gather(*(answer(engine, ask(question)) for question in questions))
    assert [text for text, _ in answers] == questions


async def test_leaving_early_ends_that_run_only(engine: Engine) -> None:
    """A peer leaks the last token of an answer into the next one."""
    for _ in range(5):
        async with aclosing(engine.generate(ask("leaving " * 200))) as events:
            async for event in events:
                if isinstance(event, Piece):
                    break
        text, finish = await answer(engine, ask())
        assert text == QUESTION
        assert finish.reason == "stop"


async def test_abort_of_a_finished_or_unknown_request_is_nothing(engine: Engine) -> None:
    request = ask()
    await answer(engine, request)
    await engine.abort(request.id)
    await engine.abort("never seen")
    assert (await answer(engine, ask()))[0] == QUESTION


async def test_a_cancelled_reader_frees_the_engine(engine: Engine) -> None:
    reader = asyncio.ensure_future(answer(engine, ask("again " * 500)))
    await asyncio.sleep(0.02)
    reader.cancel()
    await asyncio.wait([reader])
    await engine.settled("")
    assert (await answer(engine, ask()))[0] == QUESTION


async def test_a_prompt_beyond_the_context_is_refused_and_the_next_one_works(
    make_engine: Callable[[int], Engine],
) -> None:
    engine = make_engine(64)
    await engine.initialize()
    try:
        with pytest.raises(ContextOverflow) as caught:
            await answer(engine, ask("too much " * 100))
        assert caught.value.sentence.endswith(".")
        assert caught.value.hint
        assert (await answer(engine, ask("short")))[0] == "short"
    finally:
        await engine.close()


@pytest.mark.seed("4.3", "challenge: formats / APIs / parallelism / performance")
async def test_loaded_engine_reports_its_context(engine: Engine) -> None:
    assert engine.capabilities.context == 4096


async def test_loaded_model_takes_no_more_than_its_engine_declares(engine: Engine) -> None:
    spec, loaded = EngineRegistry().of(engine.model), engine.capabilities
    assert loaded.sampling <= spec.sampling <= SAMPLING_NAMES
    assert (loaded.images, loaded.logprobs) <= (spec.images, spec.logprobs)


async def test_undeclared_sampling_setting_is_refused_and_a_declared_one_is_taken(engine: Engine) -> None:
    for name in SAMPLING_NAMES - engine.capabilities.sampling:
        with pytest.raises(NotSupported, match=f"takes no {name}"):
            await answer(engine, replace(ask(), sampling=Sampling(**{name: 1})))
    if engine.capabilities.sampling_per_run:
        for name in engine.capabilities.sampling:
            await answer(engine, replace(ask(), sampling=Sampling(**{name: 1})))


async def test_warmup_answers_nothing_wrong_later(engine: Engine) -> None:
    await engine.warmup()
    assert (await answer(engine, ask()))[0] == QUESTION


async def test_close_ends_waiting_requests_and_may_be_called_twice(engine: Engine) -> None:
    async def listen(request: GenerationRequest) -> list[GenerationEvent]:
        return [event async for event in engine.generate(request)]

    lost = asyncio.ensure_future(engine.lost())
    waiting = [asyncio.ensure_future(listen(ask("word " * 900))) for _ in range(3)]
    await asyncio.sleep(0)
    await engine.close()
    await engine.close()
    assert isinstance(await lost, ExoRkllmError)
    for task in waiting:
        try:
            await task
        except RunnerLost:
            continue
    with pytest.raises(RunnerLost):
        await answer(engine, ask())
