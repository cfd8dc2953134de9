"""One NPU, several programs: whatever computes on it takes turns, whichever engine or program it belongs to."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.assembly import NO_PLUGINS, Node, open_node
from exo_rkllm.backends.base import GenerationRequest, Model
from exo_rkllm.backends.registry import EngineRegistry
from exo_rkllm.catalogue.card import Card, Weights
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.config import load
from exo_rkllm.dispatch import events as on
from exo_rkllm.dispatch.lease import GRACE
from exo_rkllm.dispatch.state import DispatchLimits, ModelNeeds
from exo_rkllm.errors import NpuUnavailable, RunnerLost
from tests.dispatch.puppet import Puppet, Stage
from tests.dispatch.world import World

RKLLM = '[weights]\nfile = "m.rkllm"\n'
LLAMA = 'engine = "llamacpp"\n[weights]\nfile = "m.gguf"\n[options]\n'
GB = 1_000_000_000


def card(**options: Any) -> Entry:
    return Entry(Path("/nowhere"), Card("m", engine="llamacpp", weights=Weights("m.gguf"), options=options))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return open_node(load({"HOME": str(tmp_path)}), NO_PLUGINS, models=tmp_path)


def add(node: Node, name: str, text: str) -> None:
    folder = node.catalogue.directory / name
    folder.mkdir()
    (folder / "model.toml").write_text(f'id = "{name}"\ncontext = 512\n{text}')
    (folder / ("m.gguf" if "llamacpp" in text else "m.rkllm")).write_bytes(bytes(5000))


async def most_at_a_time(node: Node, monkeypatch: pytest.MonkeyPatch) -> int:
    """Six questions to two models at once, on the node's own dispatcher; only the engines are puppets."""
    stage = Stage(pace=0.005)
    monkeypatch.setattr(EngineRegistry, "make", lambda _self, model, _host: Puppet(model, stage))
    dispatcher = node.dispatcher(DispatchLimits(reserve=0), available=lambda: 64 * GB)

    await asyncio.gather(dispatcher.load("npu"), dispatcher.load("llama"))  # idle beside each other is harmless

    async def ask(model: str) -> None:
        async for _ in dispatcher.generate(GenerationRequest(model=model, prompt="one two three four")):
            pass

    await asyncio.gather(*(ask(name) for name in ("npu", "llama") * 3))
    await dispatcher.drain(1.0)
    return stage.most_on_hardware


@pytest.mark.parametrize("options", ['arguments = ["--device", "RKNPU"]', "npu = true"])
async def test_llama_cpp_on_the_npu_takes_turns_with_rkllm(
    node: Node, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    """Two programs that compute there at once freeze the whole board (board-facts 5, certainty A)."""
    add(node, "npu", RKLLM)
    add(node, "llama", LLAMA + options)
    assert await most_at_a_time(node, monkeypatch) == 1


async def test_llama_cpp_on_the_cpu_answers_beside_the_npu(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    add(node, "npu", RKLLM)
    add(node, "llama", LLAMA + "threads = 1")
    assert await most_at_a_time(node, monkeypatch) == 2


@pytest.mark.parametrize(
    ("options", "on_npu"),
    [
        ({}, False),
        ({"arguments": ["--device", "RKNPU"]}, True),
        ({"arguments": ["-dev", "rknpu0,CPU"]}, True),
        ({"arguments": ["--device=RKNPU"]}, True),
        ({"arguments": ["--device", "Vulkan0"]}, False),
        ({"arguments": ["--alias", "RKNPU"]}, False),
        ({"arguments": ["--device"]}, False),
        ({"npu": True}, True),
        ({"npu": False, "arguments": ["--device", "RKNPU"]}, False),
    ],
)
def test_card_says_whether_llama_cpp_uses_the_npu(options: dict[str, Any], on_npu: bool) -> None:
    assert EngineRegistry().uses_npu(card(**options)) is on_npu


def test_engine_in_place_of_the_cards_decides(tmp_path: Path) -> None:
    model: Model = card(npu=True)
    assert not EngineRegistry(instead="dummy").uses_npu(model)


# ── leases ───────────────────────────────────────────────────────────────────────────────────────

NEEDS = {"qwen": ModelNeeds(1 * GB, 1 * GB), "gemma": ModelNeeds(1 * GB, 1 * GB), "remote": ModelNeeds()}


def board(**limits: Any) -> World:
    return World(NEEDS, DispatchLimits(reserve=0, **limits), slots={"qwen": 2, "remote": 9})


def test_lease_waits_for_what_computes_and_keeps_models_waiting() -> None:
    world = board()
    world.up("qwen", "gemma", "remote")
    running = world.submit("qwen")
    lease = world.ask_lease()
    later = [world.submit("qwen")]
    assert world.lease is None, "a second run of the model that computes would keep the neighbour out"
    world.finish(running)
    assert world.lease == lease
    later.append(world.submit("gemma"))
    assert not set(later) & set(world.running)
    assert world.submit("remote") in world.running, "what does not use the NPU goes on"
    world.end_lease(lease)
    assert set(later) & set(world.running)


def test_leases_and_models_take_turns() -> None:
    world = board()
    world.up("qwen", "gemma")
    world.ask_lease("frigate")
    order = []
    for _ in range(3):
        world.ask_lease("frigate")
        world.submit("qwen")
        world.submit("gemma")
    for _ in range(9):
        if world.lease is not None:
            order.append("lease")
            world.end_lease(world.lease)
        else:
            ticket = min(world.running)
            order.append(world.running[ticket])
            world.finish(ticket)
    assert sorted(order[:3]) == sorted(order[3:6]) == ["gemma", "lease", "qwen"]


def test_lease_is_not_starved_where_two_models_compute_at_a_time() -> None:
    world = board(npu_parallel=2)
    world.up("qwen", "gemma")
    world.submit("qwen")
    lease = world.ask_lease()
    for turn in range(6):
        world.submit(("gemma", "qwen")[turn % 2])
        if world.lease == lease:
            break
        world.finish(min(world.running))
    assert world.lease == lease


def test_holder_that_stays_too_long_is_told_and_then_loses_the_npu() -> None:
    world = board(lease_seconds=60.0)
    world.up("qwen")
    lease = world.ask_lease()
    waiting = world.submit("qwen")
    world.wait(59.0)
    assert world.leases_expired == []
    world.wait(2.0)
    assert (world.leases_expired, world.lease) == ([lease], lease), "told, and it has the grace to stop"
    world.wait(GRACE)
    assert waiting in world.running
    world.end_lease(lease)


def test_lease_that_waits_too_long_and_one_without_an_npu_are_refused() -> None:
    world = board(queue_seconds=30.0)
    world.up("qwen")
    running = world.submit("qwen")
    late = world.ask_lease()
    world.wait(31.0)
    assert world.refused[late].sentence == "frigate waited 30 s for the NPU, which is the limit."
    world.finish(running)
    world.happen(on.NpuUnavailableEvent(NpuUnavailable("No NPU.")))
    assert world.refused[world.ask_lease()].sentence == "No NPU."
    world.happen(on.NpuUnavailableEvent(NpuUnavailable("No library."), npu_lost=False))
    assert world.ask_lease() == world.lease, "a neighbour does not take the vendor's library from us"


def test_stopping_daemon_refuses_who_waits_for_a_lease() -> None:
    world = board()
    world.up("qwen")
    world.submit("qwen")
    waiting = world.ask_lease()
    world.happen(on.DrainEvent())
    assert waiting in world.refused
    assert world.ask_lease() in world.refused


DAY = 24 * 3600.0


class Day:
    """A day of neighbours, in virtual time: every arrival, crash and reset is an event in one agenda."""

    def __init__(self, seed: int, parallel: int) -> None:
        self.random = random.Random(seed)
        self.world = board(npu_parallel=parallel, lease_seconds=120.0, queue_seconds=900.0, keep_alive=600.0)
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.serial = 0
        self.begin = self.world.now
        self.asked_at: dict[int, int] = {}  # how many runs had started on the NPU by then
        self.granted_at = 0
        self.turns_before: list[int] = []  # of models, while a lease was the next in line
        self.granted = 0
        self.scheduled: set[object] = set()

    @property
    def starts(self) -> int:
        return sum(bool(NEEDS[model].npu) for model, _ in self.world.starts)

    def at(self, seconds: float, what: Callable[[], None]) -> None:
        self.serial += 1
        heapq.heappush(self.agenda, (self.world.now + seconds, self.serial, what))

    def every(self, mean: float, what: Callable[[], None]) -> None:
        def again() -> None:
            what()
            if self.world.now - self.begin < DAY:
                self.at(self.random.expovariate(1 / mean), again)

        self.at(self.random.expovariate(1 / mean), again)

    def ask(self) -> None:
        self.world.submit(self.random.choice(list(NEEDS)), self.random.choice("abc"))

    def lease(self) -> None:
        ticket = self.world.ask_lease(self.random.choice(["frigate", "whisper", "rknn"]))
        self.asked_at[ticket] = self.starts
        if self.random.random() < 0.05:  # it gives up, or dies, wherever it is
            self.at(self.random.uniform(0, 60), partial(self.end, ticket))

    def end(self, ticket: int) -> None:
        if ticket in self.world.leases_waiting or ticket == self.world.lease:
            self.world.end_lease(ticket)

    def leave(self) -> None:
        if tickets := sorted(self.world.waiting):
            self.world.leave(self.random.choice(tickets))

    def crash(self) -> None:
        if ready := sorted(name for name, state in self.world.engines.items() if state == "ready"):
            self.world.lost(self.random.choice(ready), RunnerLost("It died."))

    def reset(self) -> None:
        """The driver is unbound and bound again; a holder's own program may or may not survive that."""
        self.world.happen(on.NpuUnavailableEvent(NpuUnavailable("No NPU.")))
        if self.world.lease is not None and self.random.random() < 0.5:
            self.world.end_lease(self.world.lease)
        self.at(self.random.uniform(1, 30), lambda: self.world.happen(on.NpuUnavailableEvent(None)))

    def react(self) -> None:
        """What engines, runs and holders do by themselves."""
        world = self.world
        while self.granted < len(world.leases_granted):
            ticket = world.leases_granted[self.granted]
            self.granted += 1
            self.turns_before.append(self.starts - max(self.granted_at, self.asked_at.pop(ticket)))
            self.granted_at = self.starts
            # One in twenty overstays its time and is cut off; one in twenty dies at once.
            seconds = self.random.choice([0.0, *[self.random.uniform(0.1, 40)] * 18, 500.0])
            self.at(seconds, partial(self.end, ticket))
        for name, state in list(world.engines.items()):
            if state in ("loading", "closing") and (name, state) not in self.scheduled:
                self.scheduled.add((name, state))
                self.at(self.random.uniform(1, 8), partial(self.engine, name, state))
        for ticket in list(world.running):
            if ticket not in self.scheduled:
                self.scheduled.add(ticket)
                self.at(self.random.uniform(0.5, 20), partial(self.finish, ticket))

    def engine(self, name: str, state: str) -> None:
        self.scheduled.discard((name, state))
        if self.world.engines.get(name) == state:
            (self.world.loaded if state == "loading" else self.world.closed)(name)

    def finish(self, ticket: int) -> None:
        if ticket in self.world.running:
            self.world.finish(ticket)

    def run(self) -> None:
        self.every(25.0, self.ask)
        self.every(60.0, self.lease)
        self.every(600.0, self.leave)
        self.every(3600.0, self.crash)
        self.every(1800.0, self.reset)
        while self.agenda:
            moment, _, what = heapq.heappop(self.agenda)
            self.world.wait(moment - self.world.now)
            what()
            self.react()


@pytest.mark.parametrize("parallel", [1, 2])
def test_day_of_neighbours_loses_no_turn_and_never_has_two_at_once(parallel: int) -> None:
    """24 h of requests, leases, crashes of both and driver resets; `World.check` holds the rules after every event."""
    day = Day(seed=parallel, parallel=parallel)
    day.run()
    world = day.world
    assert world.now - day.begin >= DAY
    assert len(world.leases_granted) > 1000
    assert len(world.starts) > 2000
    assert len(world.leases_expired) > 50
    assert not (world.waiting or world.running or world.leases_waiting or world.lease), "nothing is left behind"
    refused = [error for ticket, error in world.refused.items() if ticket in day.asked_at]
    assert {error.sentence for error in refused} <= {"No NPU."}, "a lease is refused for want of an NPU only"
    assert max(day.turns_before) <= 3, "each model has its turn, and then the neighbour"
