"""Token counts of the NPU engine: what is not marked as an estimate is exact, whatever was asked before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_rkllm.backends.base import Finish, GenerationRequest, Message, Piece, Usage
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.ledger import EMPTY, CachedRun, Ledger
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.runner.jobs import RunnerJob
from exo_rkllm.runtime.locate import only
from tests.backends.npu_fixtures import Card
from tests.simulated import VERSIONS, Library

T = TypeVar("T")
USER, END, ASSISTANT = "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n"
LONG = USER + "one two three four five six seven " * 20 + END + ASSISTANT
# Pieces that merge with their neighbours, so that a longer text need not begin with the tokens of a shorter one.
PARTS = (USER, END, ASSISTANT, "a", "ab", " there", "\n", "é", "<tools>[]</tools>", '{"name": "look"}', "number 1234")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("new", "continue", "again", "shorter", "older", "leave", "tokens", "hidden")),
        st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("".join),
        st.sampled_from((None, 1, 2, 7)),
    ),
    min_size=1,
    max_size=8,
)


async def ask(engine: RkllmEngine, prompt: str = "", **fields: Any) -> tuple[str, Finish]:
    request = GenerationRequest(prompt=None if fields.keys() & {"tokens", "messages"} else prompt, **fields)
    events = [event async for event in engine.generate(request)]
    assert isinstance(events[-1], Finish)
    return "".join(event.text for event in events if isinstance(event, Piece)), events[-1]


async def leave(engine: RkllmEngine, prompt: str) -> None:
    async with aclosing(engine.generate(GenerationRequest(prompt=prompt))) as events:
        async for event in events:
            if isinstance(event, Piece):
                break


class Bench:
    """The engine in question, and one that computes every prompt from its start, whose counts are the truth."""

    def __init__(self, model: Path, library: Path) -> None:
        self.loop = asyncio.new_event_loop()
        host = EngineHost(lambda _: None, only(library))
        self.engine = RkllmEngine(Card(model, {}), host)
        self.truth = RkllmEngine(Card(model, {}, reuse=False), host)
        self.estimates = self.figures = 0
        for engine in (self.engine, self.truth):
            self.run(engine.initialize())

    def run(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)

    def close(self) -> None:
        for engine in (self.engine, self.truth):
            self.run(engine.close())
        self.loop.close()

    async def play(self, steps: list[tuple[str, str, int | None]]) -> None:
        prompt, answer = "", ""
        asked: list[str] = []
        for kind, text, limit in steps:
            if kind == "tokens":
                _, finish = await ask(self.engine, tokens=tuple(range(300, 300 + len(text))), max_tokens=limit)
                assert finish.usage.prompt == len(text)
                continue
            prompt = {"continue": prompt + answer + text, "shorter": prompt[: len(prompt) // 2] or text}.get(kind, text)
            prompt = prompt if kind != "again" or not asked else asked[-1]
            prompt = prompt if kind != "older" or not asked else asked[0]
            asked.append(prompt)
            if kind == "leave":
                await leave(self.engine, prompt)
                continue
            output: Any = "hidden" if kind == "hidden" else "text"
            answer, finish = await ask(self.engine, prompt, max_tokens=limit, output=output)
            self.check(finish.usage, (await ask(self.truth, prompt, max_tokens=1))[1].usage)

    def check(self, usage: Usage, truth: Usage) -> None:
        assert not truth.guessed
        self.figures += 1
        self.estimates += usage.guessed
        assert 0 <= usage.cached < usage.prompt
        if not usage.guessed:
            assert usage.prompt == truth.prompt


@pytest.fixture
def bench(
    request: pytest.FixtureRequest, library: Library, board_root: Path, make_model: Callable[..., Path]
) -> Iterator[Bench]:
    model = make_model(reply="ab there {asked} and so on", template="none")
    bench = Bench(model, library(request.param))
    yield bench
    bench.close()


@pytest.mark.parametrize("bench", ["1.2.0", "1.2.3", "1.3.1"], indirect=True)
def test_every_count_that_is_no_estimate_is_exact(bench: Bench) -> None:
    @settings(max_examples=25, deadline=None)
    @given(STEPS)
    def check(steps: list[tuple[str, str, int | None]]) -> None:
        bench.run(bench.play(steps))

    check()
    assert bench.estimates < bench.figures


@pytest.mark.parametrize("bench", ["1.1.4"], indirect=True)
def test_runtime_that_keeps_nothing_between_runs_is_always_counted_exactly(bench: Bench) -> None:
    bench.run(bench.play([("new", LONG, None), ("shorter", "", None), ("continue", "more", None)]))
    assert (bench.figures, bench.estimates) == (3, 0)


@pytest.mark.parametrize("bench", ["1.2.0", "1.3.1"], indirect=True)
def test_shorter_prompt_repeated_after_a_diverging_one_has_its_own_length(bench: Bench) -> None:
    """It was reported as the one token that the runtime had to compute."""
    short = LONG[: len(LONG) // 2]

    async def play() -> tuple[Usage, Usage, Usage]:
        first = (await ask(bench.engine, short))[1].usage
        await ask(bench.engine, LONG)
        return first, (await ask(bench.engine, short))[1].usage, (await ask(bench.truth, short))[1].usage

    first, again, truth = bench.run(play())
    assert (again.prompt, again.guessed) == (first.prompt, False) == (truth.prompt, False)
    assert again.cached > first.prompt // 2


@pytest.mark.parametrize("bench", ["1.3.1"], indirect=True)
def test_prompt_that_is_held_within_another_is_estimated_near_its_length(bench: Bench) -> None:
    async def play() -> tuple[Usage, Usage]:
        await ask(bench.engine, LONG)
        half = LONG[: len(LONG) // 2]
        return (await ask(bench.engine, half))[1].usage, (await ask(bench.truth, half))[1].usage

    usage, truth = bench.run(play())
    assert usage.guessed
    assert abs(usage.prompt - truth.prompt) <= truth.prompt * 0.1


@pytest.mark.parametrize("bench", ["1.3.1"], indirect=True)
def test_conversation_with_tools_is_estimated_from_what_was_computed(bench: Bench) -> None:
    """The call is rendered into the next prompt in other words than the model's own."""

    async def play() -> tuple[Usage, Usage]:
        prompt = f"<tools>[]</tools>{LONG}"
        await ask(bench.engine, prompt)
        prompt += '<tool_call>{"name": "look"}</tool_call>' + END + USER + "the tool says 4" + END + ASSISTANT
        return (await ask(bench.engine, prompt))[1].usage, (await ask(bench.truth, prompt))[1].usage

    usage, truth = bench.run(play())
    assert usage.guessed
    assert abs(usage.prompt - truth.prompt) <= truth.prompt * 0.1
    assert usage.cached > truth.prompt // 2


async def test_conversation_of_the_runtimes_own_counts_what_it_holds_as_cached(
    opened: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    async with opened(make_model(reply="well"), {"runtime_template": True}) as engine:
        first = Message("user", "hello")
        answer, finish = await ask(engine, messages=(first,))
        turns = (first, Message("assistant", answer), Message("user", "hello"))
        usage = (await ask(engine, messages=turns))[1].usage
    assert not finish.usage.guessed
    assert usage.guessed
    assert usage.cached == finish.usage.prompt + finish.usage.completion
    assert usage.prompt > finish.usage.prompt


async def test_prompt_that_begins_in_a_saved_one_is_an_estimate(
    opened: Callable[..., Any], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    model, saved = make_model(template="none"), tmp_path / "saved.bin"
    async with opened(model) as engine:
        runner = engine._loaded()
        job = RunnerJob(prompt=LONG, save_prompt_cache=str(saved))
        _ = [batch async for batch in runner.run(runner.number(), job, Piece)]
    async with opened(model, {"prompt_cache": str(saved)}) as engine:
        usage = (await ask(engine, LONG + "more"))[1].usage
    assert usage.guessed
    assert usage.cached > 0


# ── the ledger alone ─────────────────────────────────────────────────────────────────────────────


LAST = CachedRun("user: hi there\n", 5, "hello to you", 4)
NEXT = "user: hi there\nhello to you\nuser: and now\n"


def after_last(prompt: str, computed: int) -> Usage:
    ledger = Ledger(LAST)
    ledger.begin(cleared=False)
    return ledger.usage(prompt, computed, 1)


def test_next_turn_counts_question_and_answer_as_cached() -> None:
    assert after_last(NEXT, 6) == Usage(15, 9, 1, guessed=True)


@pytest.mark.parametrize(("prompt", "length"), [("user: hi there\n", 5), ("user: hi there\nhello to you", 9)])
@pytest.mark.parametrize("computed", [1, 3, 20])
def test_prompt_that_is_held_whole_has_the_length_it_had(prompt: str, length: int, computed: int) -> None:
    """Its last token is computed all the same, and is not counted twice."""
    assert after_last(prompt, computed).cached == max(0, length - computed)


def test_unrelated_prompt_has_nothing_cached() -> None:
    assert after_last("system: be brief\nuser: hi\n", 8) == Usage(8, 0, 1, guessed=True)


def test_runtime_that_cannot_reuse_is_believed() -> None:
    """Linear-attention models compute everything again before 1.3.1: the count itself says so."""
    assert after_last(NEXT, 14) == Usage(14, 0, 1, guessed=True)


def test_count_without_the_runtimes_own_is_made_from_the_text() -> None:
    ledger = Ledger()
    ledger.begin(cleared=True)
    assert ledger.usage("four by four", None, 2) == Usage(3, 0, 2, guessed=True, counted=False)


def test_length_of_a_prompt_is_known_from_its_last_exact_count() -> None:
    ledger = Ledger()
    ledger.begin(cleared=False)
    assert ledger.usage("hello", 2, 1) == Usage(2, 0, 1)
    ledger.begin(cleared=False)
    assert ledger.usage("hello", 1, 1) == Usage(2, 1, 1)
    ledger.keep(EMPTY)
    ledger.begin(cleared=False)
    assert ledger.usage("other", 9, 1) == Usage(9, 0, 1)


# ── why an answer ended ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("skip", [True, False])
async def test_answer_whose_last_allowed_token_is_its_own_end_stopped(
    opened: Callable[..., Any], make_model: Callable[..., Path], version: str, skip: bool
) -> None:
    """Runtime 1.3.1 was seen to send the end token, without text where special tokens are skipped. It is no token of
    the answer."""
    model = make_model(reply="one two three<|endoftext|>", template="none")
    async with opened(model, {"skip_special_token": skip}, version) as engine:
        whole = (await ask(engine, "count"))[1]
        tokens = whole.usage.completion
        assert whole.reason == "stop"
        for limit, reason in ((tokens + 1, "stop"), (tokens, "length"), (tokens - 1, "length"), (tokens + 2, "stop")):
            finish = (await ask(engine, "count", max_tokens=limit))[1]
            assert (finish.reason, finish.usage.completion) == (reason, min(limit, tokens))


@pytest.mark.parametrize("version", ["1.2.3", "1.3.1"])
async def test_answer_cut_within_a_character_did_not_stop(
    opened: Callable[..., Any], make_model: Callable[..., Path], version: str
) -> None:
    """The last token has no text here either: it is a part of one."""
    async with opened(make_model(reply="é 日本語", template="none"), version=version) as engine:
        pieces = (await ask(engine, "count"))[1].usage.completion
        for limit in range(1, pieces):
            assert (await ask(engine, "count", max_tokens=limit))[1].reason == "length"


@pytest.mark.parametrize("version", ["1.1.4", "1.2.3", "1.3.1"])
async def test_tokens_a_second_are_the_pace_of_the_model(
    opened: Callable[..., Any], make_model: Callable[..., Path], version: str
) -> None:
    """The first token comes with the prefill: eight of them take the time of seven."""
    model = make_model(reply="on ", endless=True, template="none", decode_tps=50)
    async with opened(model, version=version) as engine:
        finish = (await ask(engine, "go", max_tokens=8))[1]
    assert finish.usage.completion == 8
    assert finish.timings.tokens_per_second(8) == pytest.approx(50, rel=0.08)
    assert finish.timings.tokens_per_second(1) == 0


@given(st.text("ab", max_size=200), st.text("ab", max_size=9), st.text("ab", max_size=300), st.integers(0, 200))
def test_shared_beginning_is_found_exactly(prompt: str, answer: str, other: str, cut: int) -> None:
    other = (prompt + answer)[:cut] + other
    shared = CachedRun(prompt, 1, answer, 1).shared_with(other)
    held = prompt + answer
    assert held[:shared] == other[:shared]
    assert shared in (len(held), len(other)) or held[shared] != other[shared]


def test_shared_beginning_of_long_conversations_takes_no_time() -> None:
    """400,000 characters took 13 ms, several times in each request, while the NPU waited."""
    held = "It is about far. " * 25_000
    run = CachedRun(held, 1, "Yes.", 1)
    prompts = (held + "Yes. And now?", "System." + held, held[:-3] + "x")
    began = time.process_time()
    for prompt in prompts:
        run.shared_with(prompt)
    quick = time.process_time() - began
    began = time.process_time()
    for prompt in prompts:
        prompt.encode()
        assert prompt.count("\0") == 0
    assert quick < 5 * (time.process_time() - began) + 0.001
