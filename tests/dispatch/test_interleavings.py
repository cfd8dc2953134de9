"""The real Dispatcher, with everything that may happen to it at its await points: nothing waits for ever.

`TESTS_STEPS=20000 pytest tests/dispatch/test_interleavings.py` takes that many steps instead of the suite's few.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from exo_rkllm.dispatch import life
from exo_rkllm.dispatch.state import DispatchLimits
from exo_rkllm.errors import ExoRkllmError, LoadError, NpuUnavailable
from tests.dispatch.puppet import Puppet, Theatre

NAMES = ("gemma", "qwen")
MODELS = st.sampled_from(NAMES)
TURNS = st.integers(0, 3)  # turns of the loop before the next thing happens
PATIENCE = 5.0
LENGTH = 25
STEPS = int(os.environ.get("TESTS_STEPS", "1500"))
# What a hanging engine is given, in place of minutes.
LIMIT = 0.05


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "LOAD", LIMIT)
    monkeypatch.setattr(Puppet, "settle_seconds", LIMIT)


class Interleavings(RuleBasedStateMachine):
    """Each rule begins something and gives the loop a few turns, so that the next one meets it in the middle."""

    @initialize(most=st.sampled_from([0, 1]), parallel=st.sampled_from([1, 2]))
    def begin(self, most: int, parallel: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.limits = DispatchLimits(reserve=0, max_loaded=most, npu_parallel=parallel, keep_alive=60.0, queue=8)
        self.tasks: list[asyncio.Task[object]] = []
        self.loop.run_until_complete(self._begin())

    async def _begin(self) -> None:
        self.theatre = Theatre(*NAMES, limits=self.limits)

    def go(self, turns: int, act: Callable[[], object] = lambda: None) -> None:
        async def give() -> None:
            act()
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(give())

    def start(self, work: Awaitable[object], turns: int) -> None:
        async def guarded() -> object:
            with suppress(ExoRkllmError):
                return await work
            return None

        self.tasks.append(self.loop.create_task(guarded()))
        self.go(turns)

    @rule(model=MODELS, turns=TURNS, pin=st.booleans())
    def load(self, model: str, turns: int, pin: bool) -> None:
        self.start(self.theatre.dispatcher.load(model, pin=pin), turns)

    @rule(model=MODELS, turns=TURNS)
    def unload(self, model: str, turns: int) -> None:
        self.start(self.theatre.dispatcher.unload(model), turns)

    @rule(model=MODELS, turns=TURNS, keep_alive=st.sampled_from([None, 0.0]))
    def ask(self, model: str, turns: int, keep_alive: float | None) -> None:
        async def read() -> None:
            async for _ in self.theatre.ask(model, keep_alive=keep_alive):
                await asyncio.sleep(0)

        self.start(read(), turns)

    @rule(turns=TURNS, which=st.integers(0, 9))
    def leave(self, turns: int, which: int) -> None:
        """One of the latest that asked for something, whatever has become of it."""
        for task in self.tasks[-1 - which :][:1]:
            task.cancel()
        self.go(turns)

    @rule(model=MODELS, turns=TURNS)
    def crash(self, model: str, turns: int) -> None:
        engine = self.theatre.dispatcher._engine(model)
        if isinstance(engine, Puppet) and not engine.died.done():
            engine.die()
        self.go(turns)

    @rule(model=MODELS, turns=TURNS)
    def next_load_fails(self, model: str, turns: int) -> None:
        self.theatre.stages[model].fails.append(LoadError("It does not load."))
        self.go(turns)

    @rule(model=MODELS, turns=TURNS, hangs=st.booleans())
    def loads_hang(self, model: str, turns: int, hangs: bool) -> None:
        self.theatre.stages[model].load = 60.0 if hangs else 0.0
        self.go(turns)

    @rule(model=MODELS, turns=TURNS, hangs=st.booleans())
    def aborts_hang(self, model: str, turns: int, hangs: bool) -> None:
        self.theatre.stages[model].abort_takes = 60.0 if hangs else 0.0
        self.go(turns)

    @rule(turns=TURNS, held=st.integers(0, 3))
    def lease(self, turns: int, held: int) -> None:
        async def hold() -> None:
            async with self.theatre.dispatcher.lease("frigate"):
                for _ in range(held):
                    await asyncio.sleep(0)

        self.start(hold(), turns)

    @rule(away=st.booleans(), turns=TURNS)
    def npu(self, away: bool, turns: int) -> None:
        dispatcher = self.theatre.dispatcher
        reason = NpuUnavailable("No NPU.")
        self.go(turns, lambda: dispatcher.npu_unavailable(reason) if away else dispatcher.npu_available())

    @rule(turns=TURNS, keep_alive=st.sampled_from([0.0, 60.0]), pinned=st.sets(MODELS, max_size=1))
    def limits_change(self, turns: int, keep_alive: float, pinned: set[str]) -> None:
        limits = replace(self.limits, keep_alive=keep_alive, pinned=frozenset(pinned))
        self.go(turns, lambda: self.theatre.dispatcher.reconfigure(limits))

    def teardown(self) -> None:
        """With an NPU, engines that work, and time, everything ends, and every model can be loaded again."""
        if not hasattr(self, "theatre"):
            return
        try:
            self.loop.run_until_complete(self._teardown())
        finally:
            self.loop.close()

    async def _teardown(self) -> None:
        dispatcher = self.theatre.dispatcher
        for stage in self.theatre.stages.values():
            stage.fails.clear()
            stage.load = stage.abort_takes = 0.0
        dispatcher.npu_available()
        dispatcher.reconfigure(self.limits)
        unloads = {asyncio.ensure_future(dispatcher.unload(name)) for name in NAMES if name in dispatcher._models}
        await self._end(unloads)
        self._forget_crashes()
        await self._end(set(self.tasks))
        for name in NAMES:
            with suppress(ExoRkllmError):  # a pin may keep it out, which is said
                await asyncio.wait_for(dispatcher.unload(name), PATIENCE)
        for name in NAMES:
            await asyncio.wait_for(self.theatre.answer(name), PATIENCE)
            await asyncio.wait_for(dispatcher.unload(name), PATIENCE)
        states = {
            model.name: (model.state, len(model.running), len(model.waiting)) for model in dispatcher.status().models
        }
        assert states == dict.fromkeys(NAMES, ("cold", 0, 0))
        assert not dispatcher._lives and not dispatcher._loading._waiting and not dispatcher._unloading._waiting
        assert not dispatcher.status().lease.name and not dispatcher._leases
        await asyncio.wait_for(dispatcher.drain(1.0), PATIENCE)
        for engine in (engine for stage in self.theatre.stages.values() for engine in stage.engines):
            for hanging in engine.leaving.values():
                hanging.cancel()
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left

    async def _end(self, tasks: set[asyncio.Task[object]] | set[asyncio.Task[bool]]) -> None:
        if tasks:
            _, waiting = await asyncio.wait(tasks, timeout=PATIENCE)
            assert not waiting, (waiting, self.theatre.dispatcher._state)

    def _forget_crashes(self) -> None:
        """The minutes of a back-off, in no time."""
        dispatcher = self.theatre.dispatcher
        for name in dispatcher._state.models:
            dispatcher._state = dispatcher._state.change(name, retry_at=0.0, barred_until=0.0, crashes=())
        dispatcher.beat()


Interleavings.TestCase.settings = settings(
    max_examples=max(1, STEPS // LENGTH), stateful_step_count=LENGTH, deadline=None
)
TestInterleavings = Interleavings.TestCase
