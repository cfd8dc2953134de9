"""An answer has an end of its own, on every generation, whatever the runtime makes of it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exo_rkllm.backends.base import Array, Finish, GenerationRequest, Piece
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.errors import ContextOverflow, RunnerLost
from exo_rkllm.runner.jobs import RunnerJob
from simulator import tokenizer
from tests.simulated import VERSIONS

every = pytest.mark.parametrize("version", VERSIONS)
REPLY = "one two three four five six seven"
# As on 1.3.0 with files of toolkit 1.2.2 and 1.2.3 (certainty A): the end token is no end to the runtime.
MISSED: dict[str, Any] = {"unsigned_ends": True, "reads_unsigned_ends": False}
BOARD: dict[str, Any] = {"window_shifts": True, "end_event": True, "counts_first": False, "overlong": "return"}


async def ask(engine: RkllmEngine, prompt: str, **fields: Any) -> tuple[list[str], Finish]:
    events = [event async for event in engine.generate(GenerationRequest(prompt=prompt, **fields))]
    last = events[-1]
    assert isinstance(last, Finish)
    return [event.text for event in events if isinstance(event, Piece)], last


@every
async def test_endless_answers_end_at_their_limit(
    opened: Callable[..., Any], make_model: Callable[..., Path], version: str
) -> None:
    """20,000 tokens came out of a context of 4,096, since the window shifts and the model goes on (1.3.1, A)."""
    model = make_model(reply=REPLY, endless=True, max_context=96, **BOARD)
    async with opened(model, version=version) as engine:
        first = (await ask(engine, "count"))[1]
        assert first.reason == "length"
        assert first.usage.completion <= 96  # before its first run nobody knows how long a prompt is
        for number in range(50):
            asked = (None, 1, 17, 5000)[number % 4]
            pieces, finish = await ask(engine, "count", max_tokens=asked)
            assert finish.reason == "length"
            assert len(pieces) == finish.usage.completion
            room = 96 - finish.usage.prompt
            assert finish.usage.completion == (room if asked is None else min(asked, room))


@every
@pytest.mark.parametrize("skip", [True, False])
async def test_answers_end_at_an_end_token_that_the_runtime_misses(
    opened: Callable[..., Any], make_model: Callable[..., Path], version: str, skip: bool
) -> None:
    model = make_model(reply=REPLY, **BOARD, **MISSED)
    async with opened(model, {"skip_special_token": skip}, version) as engine:
        for _ in range(50):
            pieces, finish = await ask(engine, "count")
            assert ("".join(pieces), finish.reason) == (REPLY, "stop")
            assert len(pieces) == finish.usage.completion
            assert finish.usage.cached == 0, "the abort that ended the answer before this one has emptied the cache"


SPECIAL = "<|endoftext|>"
OTHER_END = tokenizer.token(SPECIAL)  # one that the model file's head does not name
SOURCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "card": ({"end_tokens": [OTHER_END]}, {}),
    "generation_config": ({}, {"generation_config.json": {"eos_token_id": [1, OTHER_END]}}),
    "config": ({}, {"config.json": {"eos_token_id": OTHER_END}}),
    "tokenizer_config": (
        {},
        {"tokenizer_config.json": {"eos_token": SPECIAL, "added_tokens_decoder": {str(OTHER_END): SPECIAL}}},
    ),
    "tokenizer": (
        {},
        {
            "special_tokens_map.json": {"eos_token": SPECIAL},
            "tokenizer.json": {"added_tokens": [{"id": OTHER_END, "content": SPECIAL}]},
        },
    ),
    "selftest": ({}, {"selftest.json": {"m.rkllm": {"end_tokens": [OTHER_END]}}}),
}


@pytest.mark.parametrize("source", SOURCES)
async def test_end_token_of_any_source_ends_an_answer_that_the_runtime_would_go_on_with(
    opened: Callable[..., Any], make_model: Callable[..., Path], source: str
) -> None:
    options, files = SOURCES[source]
    model = make_model(file="m.rkllm", reply=f"one two{SPECIAL}three", endless=True, **BOARD, **MISSED)
    for name, content in files.items():
        model.with_name(name).write_text(json.dumps(content))
    async with opened(model, options, "1.3.0") as engine:
        pieces, finish = await ask(engine, "count")
    assert ("".join(pieces), finish.reason, finish.end_token) == ("one two", "stop", OTHER_END)


@pytest.mark.parametrize("version", ["1.2.3", "1.3.1"])
async def test_an_end_that_the_runtime_knows_keeps_its_cache(
    opened: Callable[..., Any], make_model: Callable[..., Path], version: str
) -> None:
    """It is not aborted, after which the cache would have to be cleared."""
    async with opened(make_model(reply=REPLY, **BOARD), version=version) as engine:
        first = (await ask(engine, "count to seven, please"))[1]
        again = (await ask(engine, "count to seven, please"))[1]
    assert first.usage.cached == 0
    assert again.usage.cached == again.usage.prompt - 1


@every
async def test_last_event_without_text_is_no_token_though_its_id_is_unknown(
    opened: Callable[..., Any], make_model: Callable[..., Path], version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exo_rkllm.backends.rkllm_load._head_end", lambda _: ())
    async with opened(make_model(reply=REPLY, **BOARD), version=version) as engine:
        pieces, finish = await ask(engine, "count")
    assert ("".join(pieces), finish.reason) == (REPLY, "stop")
    assert all(pieces)
    assert len(pieces) == finish.usage.completion


@every
async def test_a_prompt_that_the_runtime_refuses_without_an_event_is_told(
    opened: Callable[..., Any], make_model: Callable[..., Path], version: str
) -> None:
    """-1 and no event, on 1.3.1 (A)."""
    async with opened(make_model(reply=REPLY, max_context=64, **BOARD), version=version) as engine:
        with pytest.raises(ContextOverflow, match=r"The prompt has \d+ tokens, .* has a context of 64\."):
            await ask(engine, "word " * 200)
        with pytest.raises(ContextOverflow, match=r"The prompt has 64 tokens, .* has a context of 64\."):
            [_ async for _ in engine.generate(GenerationRequest(tokens=(1,) * 64))]
        assert "".join((await ask(engine, "count"))[0]) == REPLY


@every
async def test_vector_runs_leave_nothing_behind(
    opened: Callable[..., Any], make_model: Callable[..., Path], version: str
) -> None:
    """Neither the delay that grew from 0.3 to 26 s within hours (B), nor a wait for a FINISH that never comes (A)."""
    model = make_model(reply=REPLY, vectors_finish=False, vector_residue_ms=3000.0 if version != "1.1.4" else 0.0)
    async with opened(model, version=version) as engine:
        for _ in range(3):
            request = GenerationRequest(prompt="a text", output="hidden")
            events = [event async for event in engine.generate(request)]
            (rows,) = [event for event in events if isinstance(event, Array)]
            last = events[-1]
            assert isinstance(last, Finish)
            assert last.usage.prompt == rows.rows
        assert (await ask(engine, "count"))[1].timings.prefill < 2


# ── anything, in any order ───────────────────────────────────────────────────────────────────────

EXAMPLES = 200 if os.environ.get("TESTS_LONG") else 12
CRASHES_AT = 40  # tokens, which only the answer to CRASH has
STEPS = st.one_of(
    st.tuples(st.just("ask"), st.one_of(st.none(), st.integers(1, 9))),
    st.tuples(st.just("leave"), st.integers(1, 6)),
    st.tuples(st.just("abort"), st.integers(1, 6)),
    st.tuples(st.just("vectors"), st.none()),
    st.tuples(st.just("overlong"), st.none()),
    st.tuples(st.just("crash"), st.none()),
)
SWITCHES = st.fixed_dictionaries(
    {
        "window_shifts": st.booleans(),
        "end_event": st.booleans(),
        "counts_first": st.booleans(),
        "vectors_finish": st.booleans(),
        "resume_reads": st.booleans(),
        "saves_answer": st.booleans(),
        "load_after_abort_crashes": st.booleans(),
        "appends_to_loaded": st.booleans(),
        "overlong": st.sampled_from(["both", "return", "callback"]),
        "abort_delay_ms": st.sampled_from([0, 10]),  # some ten tokens more
    }
)
CRASH = "crash now"


async def step(engine: RkllmEngine, what: str, number: int | None) -> bool:
    """Does one thing and checks its outcome; False where the process is to be replaced."""
    if what == "ask":
        pieces, finish = await ask(engine, "count", max_tokens=number)
        assert REPLY.startswith("".join(pieces))
        assert len(pieces) == finish.usage.completion
        whole = "".join(pieces) == REPLY
        assert finish.reason == ("stop" if number is None or len(pieces) < number else "length")
        assert whole or len(pieces) == number
    elif what in {"leave", "abort"}:
        request = GenerationRequest(prompt="count")
        heard: list[Any] = []
        async with aclosing(engine.generate(request)) as events:
            async for event in events:
                heard.append(event)
                if sum(isinstance(one, Piece) for one in heard) == number:
                    if what == "leave":
                        break
                    await engine.abort(request.id)
        await engine.settled(request.id)
        pieces = [one.text for one in heard if isinstance(one, Piece)]
        assert REPLY.startswith("".join(pieces))
        if what == "abort":
            last = heard[-1]
            assert isinstance(last, Finish)
            assert last.usage.completion == len(pieces)
    elif what == "vectors":
        events_of = engine.generate(GenerationRequest(prompt="a text", output="hidden"))
        kinds = [type(event) async for event in events_of]
        assert kinds.count(Array) == 1
        assert kinds[-1] is Finish
    elif what == "overlong":
        with pytest.raises(ContextOverflow):
            await ask(engine, "word " * 300)
    else:
        with pytest.raises(RunnerLost):
            await ask(engine, CRASH)
        return False
    return True


@settings(
    max_examples=400 if os.environ.get("TESTS_LONG") else 12, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(
    version=st.sampled_from(VERSIONS),
    steps=st.lists(STEPS, min_size=1, max_size=8),
    switches=SWITCHES,
    missed=st.booleans(),
    cached=st.booleans(),
)
def test_any_order_of_runs_leaves_every_answer_whole(
    opened: Callable[..., Any],
    make_model: Callable[..., Path],
    version: str,
    steps: list[tuple[str, int | None]],
    switches: dict[str, Any],
    missed: bool,
    cached: bool,
) -> None:
    """No answer without an end, no wrong or doubled token, usage as the events, no process lost but by its crash.

    Also where the card has a saved prompt: runtimes that crash when one is loaded after an abort are among these.
    """
    if missed:
        switches = {**switches, **MISSED}
    rules = ((CRASH, "on and on " * 40),)
    model = make_model(
        reply=REPLY, rules=rules, faults=(f"segv@token:{CRASHES_AT}",), max_context=256, decode_tps=1000.0, **switches
    )
    options = {"prompt_cache": str(model.with_suffix(".cache"))} if cached else {}

    async def walk() -> None:
        if cached:
            async with opened(model, version=version) as engine:
                runner, job = engine._loaded(), RunnerJob(prompt="count", save_prompt_cache=options["prompt_cache"])
                _ = [batch async for batch in runner.run(runner.number(), job, Piece)]
        rest = list(steps)
        while rest:
            async with opened(model, options, version) as engine:
                alive = True
                while rest and alive:
                    what, number = rest.pop(0)
                    alive = await asyncio.wait_for(step(engine, what, number), 30)

    asyncio.run(walk())
