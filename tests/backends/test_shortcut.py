"""Tokens that go from the reader of the child's socket to whoever delivers them, and those that do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any

from exo_rkllm.backends.base import Engine, Finish, GenerationRequest, Model, Piece, Progress
from exo_rkllm.backends.dummy import DummyEngine, DummyModel
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.backends.rkllm_file import RkllmFile
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.dispatch.state import ModelNeeds
from exo_rkllm.runner.stream import RunDone, RunStream
from exo_rkllm.runtime.locate import only
from tests.simulated import Library

Opened = Callable[..., AbstractAsyncContextManager[RkllmEngine]]
Made = Callable[..., Path]
WORDS = " ".join(f"w{number}" for number in range(24))


def piece_of(text: str, token: int) -> Piece:
    return Piece(text, token)


def shortened() -> tuple[RunStream, list[str]]:
    """A stream whose tokens are taken, and the texts that were."""
    stream, taken = RunStream(piece_of, 1.0), list[str]()

    def take(piece: Piece) -> bool:
        taken.append(piece.text)
        return True

    stream.take = take
    return stream, taken


# ── the stream of one run ────────────────────────────────────────────────────────────────────────


async def test_token_is_offered_only_to_a_reader_that_waits() -> None:
    stream, taken = shortened()
    stream.token(1, b"a", alone=True)  # nobody waits yet
    assert (taken, [event.text for event in stream.events]) == ([], ["a"])
    stream.events.clear()
    reader = asyncio.create_task(stream.wait())
    await asyncio.sleep(0)
    stream.token(2, b"b", alone=True)
    assert taken == ["b"] and not stream.events and not reader.done()
    stream.token(3, b"c")  # came together with something else
    stream.token(4, b"d", alone=True)  # must not overtake it
    await reader
    assert taken == ["b"] and [event.text for event in stream.events] == ["c", "d"]
    assert "".join(stream.texts) == "abcd"


async def test_parts_of_a_character_are_put_together_whoever_takes_them() -> None:
    stream, taken = shortened()
    reader = asyncio.create_task(stream.wait())
    await asyncio.sleep(0)
    for part in (b"\xf0\x9f", b"\x98\x80", b"!", b"\xe2\x82"):
        stream.token(1, part, alone=True)
    assert "".join(taken) == "\N{GRINNING FACE}!" and not reader.done()
    stream.end(RunDone({}, stopped=False))
    await reader
    assert "".join(stream.texts) == "\N{GRINNING FACE}!\N{REPLACEMENT CHARACTER}"


async def test_reader_that_was_cancelled_is_offered_nothing() -> None:
    stream, taken = shortened()
    reader = asyncio.create_task(stream.wait())
    await asyncio.sleep(0)
    reader.cancel()
    stream.token(1, b"a", alone=True)
    assert [event.text for event in stream.events] == ["a"] and not taken
    await asyncio.wait([reader])


# ── the engine ───────────────────────────────────────────────────────────────────────────────────


async def answered(engine: RkllmEngine, *, takes: bool, pause: float = 0.0) -> tuple[list[str], list[str], Finish]:
    """What was taken and yielded, in the order of both together, and what was taken alone."""
    heard, taken = list[str](), list[str]()
    request = GenerationRequest(prompt=WORDS)

    def take(piece: Piece) -> bool:
        if takes:
            heard.append(piece.text)
            taken.append(piece.text)
        return takes

    finish = None
    async with aclosing(engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, Progress):
                engine.shortcut(request.id, take)
            elif isinstance(event, Piece):
                heard.append(event.text)
                await asyncio.sleep(pause)
            elif isinstance(event, Finish):
                finish = event
    assert finish is not None
    return heard, taken, finish


async def test_what_is_taken_is_not_yielded_and_counts_in_the_answer(opened: Opened, make_model: Made) -> None:
    async with opened(make_model(reply="{user}", template="none", decode_tps=100.0)) as engine:
        plain, _, least = await answered(engine, takes=False)
        heard, taken, finish = await answered(engine, takes=True)
        assert "".join(heard) == "".join(plain) and "".join(heard).strip() == WORDS
        assert taken and finish.usage.completion == least.usage.completion
        # What the ledger knows of the cache includes what was taken.
        again, _, third = await answered(engine, takes=True)
        assert again == heard and third.usage == finish.usage


async def test_nothing_overtakes_a_reader_that_is_busy(opened: Opened, make_model: Made) -> None:
    async with opened(make_model(reply="{user}", template="none", decode_tps=300.0)) as engine:
        heard, _, finish = await answered(engine, takes=True, pause=0.02)
        assert "".join(heard).strip() == WORDS and finish.reason == "stop"


async def test_shortcut_of_a_run_that_is_over_is_ignored(opened: Opened, make_model: Made) -> None:
    async with opened(make_model(reply="x", template="none")) as engine:
        engine.shortcut("gone", lambda piece: True)


# ── the dispatcher ───────────────────────────────────────────────────────────────────────────────


def serving(model: Model, engine: Callable[[Model], Engine]) -> Dispatcher:
    return Dispatcher(find=lambda _: model, engine=engine, needs=lambda _: ModelNeeds(), available=lambda: 1 << 40)


async def delivered(dispatcher: Dispatcher, *, takes: bool = True, **fields: Any) -> tuple[str, str, Finish]:
    """All that was heard, and what of it was delivered."""
    heard, alone = list[str](), list[str]()

    def deliver(piece: Piece) -> bool:
        if takes:
            heard.append(piece.text)
            alone.append(piece.text)
        return takes

    finish = None
    async for event in dispatcher.generate(GenerationRequest(prompt=WORDS, **fields), deliver=deliver):
        if isinstance(event, Piece):
            heard.append(event.text)
        elif isinstance(event, Finish):
            finish = event
    assert finish is not None
    return "".join(heard).strip(), "".join(alone), finish


async def test_dispatcher_delivers_counts_and_still_sees_stops(
    library: Library, board_root: Path, make_model: Made
) -> None:
    host = EngineHost(lambda _: None, only(library("1.3.0")))
    model = RkllmFile(make_model(reply="{user}", template="none", decode_tps=100.0))
    dispatcher = serving(model, lambda one: RkllmEngine(one, host))
    whole, alone, finish = await delivered(dispatcher)
    assert whole == WORDS and alone and finish.reason == "stop"
    tokens = finish.usage.completion
    assert (await delivered(dispatcher, takes=False))[2].usage.completion == tokens
    short, alone, finish = await delivered(dispatcher, stop=("w9",))
    assert short == WORDS.partition("w9")[0].strip() and finish.stop == "w9"
    await dispatcher.drain(0)


async def test_engine_that_does_without_yields_everything() -> None:
    dispatcher = serving(DummyModel("d"), DummyEngine)
    whole, alone, _ = await delivered(dispatcher)
    assert whole and not alone
    await dispatcher.drain(0)
