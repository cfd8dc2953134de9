"""Whatever happens in whatever order: nothing is lost, nothing doubled, and everybody is served in the end."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from exo_rkllm.dispatch import events as on
from exo_rkllm.dispatch.state import DispatchLimits, ModelNeeds
from exo_rkllm.errors import LoadError, NpuUnavailable, OutOfMemory, RunnerLost
from tests.dispatch.world import GB, World

NEEDS = {
    "small": ModelNeeds(1 * GB, 1 * GB),
    "medium": ModelNeeds(3 * GB, 3 * GB),
    "large": ModelNeeds(6 * GB, 6 * GB),
    "huge": ModelNeeds(30 * GB, 30 * GB),
    "remote": ModelNeeds(),
}
MODELS = st.sampled_from(sorted(NEEDS))
CLIENTS = st.sampled_from(["ann", "bob", "exo"])
KEEP = st.sampled_from([None, 0.0, 5.0, -1.0])
ERRORS = (RunnerLost("It died."), LoadError("It does not load."), OutOfMemory("No room."))


class Anything(RuleBasedStateMachine):
    @initialize(slots=st.sampled_from([1, 3]), parallel=st.sampled_from([1, 2]), most=st.sampled_from([0, 1, 2]))
    def begin(self, slots: int, parallel: int, most: int) -> None:
        limits = DispatchLimits(
            queue=6, queue_per_client=4, queue_seconds=60, keep_alive=20, max_loaded=most, npu_parallel=parallel,
            reserve=0, domains=3, lease_seconds=40,
        )  # fmt: skip
        self.world = World(NEEDS, limits, slots={"small": slots, "remote": slots})

    def engines(self, state: str) -> list[str]:
        return sorted(name for name, now in self.world.engines.items() if now == state)

    @rule(model=MODELS, client=CLIENTS, keep_alive=KEEP)
    def submit(self, model: str, client: str, keep_alive: float | None) -> None:
        self.world.submit(model, client, keep_alive)

    @precondition(lambda self: self.world.waiting or self.world.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.world.leave(data.draw(st.sampled_from(sorted([*self.world.waiting, *self.world.running]))))

    @precondition(lambda self: self.world.running)
    @rule(data=st.data(), seconds=st.floats(0, 30))
    def finish(self, data: st.DataObject, seconds: float) -> None:
        self.world.wait(seconds)
        if self.world.running:
            self.world.finish(data.draw(st.sampled_from(sorted(self.world.running))), seconds)

    @rule(model=MODELS, keep_alive=KEEP, pin=st.booleans())
    def load(self, model: str, keep_alive: float | None, pin: bool) -> None:
        self.world.load(model, keep_alive, pin=pin)

    @rule(model=MODELS)
    def unload(self, model: str) -> None:
        self.world.happen(on.UnloadEvent(model))

    @precondition(lambda self: self.engines("loading"))
    @rule()
    def loaded(self) -> None:
        self.world.loaded(self.engines("loading")[0])

    @precondition(lambda self: self.engines("loading") or self.engines("ready"))
    @rule(data=st.data(), error=st.sampled_from(ERRORS))
    def lost(self, data: st.DataObject, error: Exception) -> None:
        assert isinstance(error, RunnerLost | LoadError)
        self.world.lost(data.draw(st.sampled_from([*self.engines("loading"), *self.engines("ready")])), error)

    @precondition(lambda self: self.engines("closing"))
    @rule(data=st.data())
    def closed(self, data: st.DataObject) -> None:
        self.world.closed(data.draw(st.sampled_from(self.engines("closing"))))

    @rule(name=CLIENTS)
    def ask_lease(self, name: str) -> None:
        self.world.ask_lease(name)

    @precondition(lambda self: self.world.leases_waiting or self.world.lease)
    @rule(data=st.data())
    def end_lease(self, data: st.DataObject) -> None:
        tickets = [*self.world.leases_waiting, *([] if self.world.lease is None else [self.world.lease])]
        self.world.end_lease(data.draw(st.sampled_from(sorted(tickets))))

    @rule(away=st.booleans())
    def board(self, away: bool) -> None:
        self.world.happen(on.NpuUnavailableEvent(NpuUnavailable("No NPU.") if away else None))

    @rule(keep_alive=st.sampled_from([0.0, 20.0, -1.0]), pinned=st.sets(MODELS, max_size=1))
    def reconfigure(self, keep_alive: float, pinned: set[str]) -> None:
        limits = replace(self.world.limits, keep_alive=keep_alive, pinned=frozenset(pinned))
        self.world.happen(on.LimitsChangedEvent(limits))

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    def teardown(self) -> None:
        """With a board, and engines that work, everybody who still waits is answered or told why not."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.happen(on.NpuUnavailableEvent(None))
        world.happen(on.LimitsChangedEvent(world.limits))
        for model in list(world.state.models):
            world.happen(on.UnloadEvent(model))  # pins may keep others out for ever, which is their purpose
        for _ in range(400):
            if world.lease is not None:
                world.end_lease(world.lease)
            elif world.running:
                world.finish(min(world.running))
            elif loading := self.engines("loading"):
                world.loaded(loading[0])
            elif closing := self.engines("closing"):
                world.closed(closing[0])
            elif world.waiting or world.leases_waiting:
                world.wait(10.0)  # a back-off
            else:
                break
        assert not world.waiting
        assert not world.running
        assert not world.leases_waiting
        world.wait(1000.0)
        for model in self.engines("closing"):
            world.closed(model)
        for model in world.engines:
            assert world.state.keep_alive(world.state.models[model]) == math.inf, "idle, and unloaded in the end"


Anything.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnything = Anything.TestCase
