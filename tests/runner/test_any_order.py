"""One process in any order of runs, stops, prompt caches and vectors, on every generation and board behaviour."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exo_rkllm.errors import ContextOverflow, RunnerLost, UsageError
from exo_rkllm.runner.jobs import RunnerJob
from exo_rkllm.runner.parent import Runner
from exo_rkllm.runner.stream import ArrayRows, RunDone
from exo_rkllm.runtime.values import LoadParams
from simulator import tokenizer
from tests.runner.test_faults import nothing_stays_behind  # noqa: F401 - no process or descriptor is left
from tests.simulated import VERSIONS, Library

REPLY = "one two three four five six seven"
TOKENS = [(tokenizer.decode([token]), token) for token in tokenizer.encode(REPLY)]
END = tokenizer.token("<|im_end|>")
CONTEXT = 256
CRASH, CRASHES_AT = "crash now", 40
LIMITS = st.one_of(st.none(), st.integers(1, 9))
STEPS = st.one_of(
    st.tuples(st.sampled_from(["ask", "save", "keep"]), LIMITS),
    st.tuples(st.sampled_from(["leave", "abort", "abort and save"]), st.integers(1, 6)),
    st.tuples(st.sampled_from(["load", "hidden", "logits", "overlong", "crash"]), st.none()),
)
SWITCHES = st.fixed_dictionaries({
    "window_shifts": st.booleans(),
    "end_event": st.booleans(),
    "counts_first": st.booleans(),
    "overlong": st.sampled_from(["both", "return", "callback"]),
    "saves_on_abort": st.booleans(),
    "saves_answer": st.booleans(),
    "load_after_abort_crashes": st.booleans(),
    "appends_to_loaded": st.booleans(),
    "vectors_finish": st.booleans(),
    "logits_last_only": st.booleans(),
    "resume_reads": st.booleans(),
    "reads_unsigned_ends": st.booleans(),
    "abort_delay_ms": st.sampled_from([0, 10]),
})  # fmt: skip


class Outcome(NamedTuple):
    tokens: list[tuple[str, int]]
    rows: list[ArrayRows]
    done: RunDone | None


class Process:
    """A runner, and what a test must know of its past."""

    def __init__(self, runner: Runner, cache: Path) -> None:
        self.runner = runner
        self.cache = cache
        self.stopped = False

    async def run(self, job: RunnerJob, *, abort_at: int = 0, leave_at: int = 0) -> Outcome:
        number, outcome = self.runner.number(), Outcome([], [], None)
        async with aclosing(self.runner.run(number, job, lambda text, token: (text, token))) as batches:
            async for batch in batches:
                for event in batch:
                    assert outcome.done is None, "nothing follows the end"
                    if isinstance(event, tuple):
                        outcome.tokens.append(event)
                    elif isinstance(event, ArrayRows):
                        outcome.rows.append(event)
                    elif isinstance(event, RunDone):
                        outcome = outcome._replace(done=event)
                if leave_at and len(outcome.tokens) >= leave_at:
                    break
                if abort_at and len(outcome.tokens) >= abort_at:
                    self.runner.abort(number)
        await self.runner.settled()
        return outcome

    async def step(self, what: str, number: int | None) -> bool:
        """Does one thing and checks its outcome; False where the process is gone, as it was told to."""
        saved = str(self.cache) if "save" in what else ""
        if what in {"ask", "save", "keep"}:
            job = RunnerJob(prompt="count", max_tokens=number, save_prompt_cache=saved, keep_history=what == "keep")
            outcome = await self.run(job)
            assert outcome.done is not None
            assert outcome.tokens == TOKENS[:number]
            assert outcome.done.figures["generate_tokens"] == len(outcome.tokens)
            self.stopped |= outcome.done.figures["aborted"]
        elif what in {"abort", "abort and save"}:
            assert number is not None
            outcome = await self.run(RunnerJob(prompt="count", save_prompt_cache=saved), abort_at=number)
            assert outcome.done is not None
            assert outcome.tokens == TOKENS[: len(outcome.tokens)]
            assert outcome.done.figures["generate_tokens"] == len(outcome.tokens) >= number
            self.stopped = True
        elif what == "leave":
            assert number is not None
            outcome = await self.run(RunnerJob(prompt="count"), leave_at=number)
            assert outcome.tokens == TOKENS[: len(outcome.tokens)]
            self.stopped = True
        elif what in {"hidden", "logits"}:
            outcome = await self.run(RunnerJob(prompt="a text", output=what))
            assert len(outcome.rows) == 1
            assert (outcome.tokens, outcome.done is not None) == ([], True)
        elif what == "load":
            await self.load()
        elif what == "overlong":
            with pytest.raises(ContextOverflow):
                await self.run(RunnerJob(prompt="word " * 300))
        else:
            with pytest.raises(RunnerLost):
                await self.run(RunnerJob(prompt=CRASH))
            return False
        return True

    async def load(self) -> None:
        """Only a process in which nothing was stopped takes a prompt cache; no process dies of one."""
        if not self.cache.exists():
            return
        try:
            await self.runner.call("load_prompt_cache", path=str(self.cache))
        except UsageError as error:
            assert self.stopped
            assert error.hint.startswith("Load the model again")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(version=st.sampled_from(VERSIONS), steps=st.lists(STEPS, min_size=1, max_size=10), switches=SWITCHES)
def test_any_order_of_runs_and_prompt_caches_keeps_the_process(
    library: Library,
    board_root: Path,
    make_model: Callable[..., Path],
    version: str,
    steps: list[tuple[str, int | None]],
    switches: dict[str, Any],
) -> None:
    """No answer without an end, no wrong or doubled token, usage as the events, no process lost but by its crash."""
    model = make_model(
        reply=REPLY, rules=((CRASH, "on and on " * 40),), faults=(f"segv@token:{CRASHES_AT}",), template="none",
        max_context=CONTEXT, decode_tps=1000.0, unsigned_ends=True, **switches,
    )  # fmt: skip
    params = LoadParams(str(model), end_tokens=(END, tokenizer.token("<|endoftext|>")))

    async def walk() -> None:
        rest = list(steps)
        if version == "1.1.4":  # it has neither
            rest = [step for step in rest if step[0] not in {"logits", "keep"}]
        while rest:
            runner, _ = await Runner.start("model", library(version), params, report=lambda _: None)
            process, alive = Process(runner, model.with_suffix(".cache")), True
            try:
                while rest and alive:
                    alive = await asyncio.wait_for(process.step(*rest.pop(0)), 30)
            finally:
                await runner.close()

    asyncio.run(walk())


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_prompt_cache_is_refused_once_a_run_was_stopped(
    library: Library, board_root: Path, make_model: Callable[..., Path], version: str
) -> None:
    """A: ORK, 1.2.3: the run after the load crashes. Other versions: ?, so none is tried."""
    model = make_model(reply=REPLY, template="none", decode_tps=1000.0, load_after_abort_crashes=True)
    params = LoadParams(str(model), end_tokens=(END, tokenizer.token("<|endoftext|>")))
    runner, _ = await Runner.start("model", library(version), params, report=lambda _: None)
    try:
        process = Process(runner, model.with_suffix(".cache"))
        assert await process.step("save", None)
        await runner.call("load_prompt_cache", path=str(process.cache))
        assert await process.step("abort", 2)
        with pytest.raises(UsageError, match="A run was stopped in this process"):
            await runner.call("load_prompt_cache", path=str(process.cache))
        assert await process.step("ask", None)
    finally:
        await runner.close()
