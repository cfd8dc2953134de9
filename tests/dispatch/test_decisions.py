"""What dispatch decides, told as it would happen on a board with 8 GB to give."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exo_rkllm.dispatch import events as on
from exo_rkllm.dispatch.decide import BACK_OFF, BAR, deadline
from exo_rkllm.dispatch.state import DispatchLimits, ModelNeeds, ModelState, evolved
from exo_rkllm.errors import Busy, LoadError, NpuUnavailable, OutOfMemory, RunnerLost
from tests.dispatch.world import GB, World

QWEN, GEMMA, LLAMA, BIG, REMOTE = "qwen", "gemma", "llama", "big", "remote"
NEEDS = {
    QWEN: ModelNeeds(2 * GB, 2 * GB),
    GEMMA: ModelNeeds(3 * GB, 3 * GB),
    LLAMA: ModelNeeds(4 * GB, 4 * GB),
    BIG: ModelNeeds(9 * GB, 9 * GB),
    REMOTE: ModelNeeds(),
}
DIED = RunnerLost("The process of qwen was killed by SIGSEGV.")


def board(**limits: object) -> World:
    return World(NEEDS, replace(DispatchLimits(reserve=0, keep_alive=300.0), **limits))  # type: ignore[arg-type] # any field


# ── one model ────────────────────────────────────────────────────────────────────────────────────


def test_a_question_loads_the_model_and_starts_when_it_is_ready() -> None:
    world = board()
    ticket = world.submit(QWEN)
    assert world.engines == {QWEN: "loading"}
    world.loaded(QWEN)
    assert world.running == {ticket: QWEN}


def test_one_runs_and_the_next_starts_when_it_is_over() -> None:
    world = board()
    world.up(QWEN)
    first, second = world.submit(QWEN), world.submit(QWEN)
    assert list(world.running) == [first]
    world.finish(first)
    assert list(world.running) == [second]


def test_request_that_leaves_the_queue_is_never_started() -> None:
    world = board()
    world.up(QWEN)
    first, second, third = world.submit(QWEN), world.submit(QWEN), world.submit(QWEN)
    world.leave(second)
    world.finish(first)
    assert list(world.running) == [third]


def test_an_engine_with_slots_runs_as_many() -> None:
    world = board()
    world.slots = {REMOTE: 3}
    world.up(REMOTE)
    tickets = [world.submit(REMOTE) for _ in range(5)]
    assert list(world.running) == tickets[:3]


def test_32_clients_get_the_same_number_of_turns() -> None:
    world = board()
    world.up(QWEN)
    clients = [f"client {number}" for number in range(32)]
    for client in clients:
        world.submit(QWEN, client)
    for _ in range(32 * 5):
        ticket, _ = world.running.popitem()
        world.running[ticket] = QWEN
        client = world.clients[ticket]
        world.submit(QWEN, client)
        world.finish(ticket)
    turns = [client for _, client in world.starts]
    assert {turns.count(client) for client in clients} <= {5, 6}


# ── a full queue ─────────────────────────────────────────────────────────────────────────────────


def test_a_full_queue_refuses_with_the_time_until_a_place_is_free() -> None:
    world = board(queue=2)
    world.up(QWEN)
    world.finish(world.submit(QWEN), seconds=8.0)
    for client in "abc":
        world.submit(QWEN, client)
    refused = world.refused[world.submit(QWEN, "d")]
    assert isinstance(refused, Busy)
    assert refused.sentence == "2 requests wait for qwen already."
    assert refused.retry_after == pytest.approx(8.0)


def test_busy_names_a_longer_wait_where_models_share_the_npu() -> None:
    world = board(queue=1)
    world.up(QWEN, GEMMA)
    world.finish(world.submit(QWEN), seconds=8.0)
    world.submit(QWEN)
    world.submit(GEMMA)
    world.submit(QWEN)
    refused = world.refused[world.submit(QWEN)]
    assert isinstance(refused, Busy)
    assert refused.retry_after == pytest.approx(16.0)


def test_one_client_cannot_take_the_whole_queue() -> None:
    world = board(queue=10, queue_per_client=2)
    world.up(QWEN)
    tickets = [world.submit(QWEN, "greedy") for _ in range(4)]
    assert world.refused[tickets[3]].sentence == "2 requests of this client wait for qwen already."
    assert world.submit(QWEN, "other") in world.waiting


def test_request_that_waits_past_the_limit_is_refused() -> None:
    world = board(queue_seconds=60.0)
    world.up(QWEN)
    world.submit(QWEN)
    early = world.submit(QWEN)
    world.wait(30)
    late = world.submit(QWEN)
    world.wait(30)
    assert world.refused[early].sentence == "The request waited 60 s for qwen, which is the limit."
    assert late in world.waiting


# ── several models on one NPU ────────────────────────────────────────────────────────────────────


def test_the_npu_computes_for_one_model_at_a_time_and_models_take_turns() -> None:
    world = board()
    world.up(QWEN, GEMMA)
    for _ in range(3):
        world.submit(QWEN)
        world.submit(GEMMA)
    order = []
    while world.running:
        ((ticket, model),) = world.running.items()
        order.append(model)
        world.finish(ticket)
    assert order == [QWEN, GEMMA] * 3


def test_a_model_with_slots_lets_the_other_one_have_its_turn() -> None:
    world = board()
    world.slots = {QWEN: 4}
    world.up(QWEN, GEMMA)
    first, second = world.submit(QWEN), world.submit(QWEN)
    waits = world.submit(GEMMA)
    late = world.submit(QWEN)
    assert set(world.running) == {first, second}
    world.finish(first)
    world.finish(second)
    assert set(world.running) == {waits}
    world.finish(waits)
    assert set(world.running) == {late}


def test_model_off_the_npu_waits_for_no_other() -> None:
    world = board()
    world.up(QWEN, REMOTE)
    assert len([world.submit(QWEN), world.submit(REMOTE)]) == len(world.running)


def test_npu_parallel_lets_two_models_compute_at_a_time() -> None:
    world = board(npu_parallel=2)
    world.limits = replace(world.limits, npu_parallel=2)
    world.up(QWEN, GEMMA)
    world.submit(QWEN)
    world.submit(GEMMA)
    assert len(world.running) == 2


# ── memory ───────────────────────────────────────────────────────────────────────────────────────


def test_the_longest_unused_idle_model_makes_room() -> None:
    world = board()
    world.up(QWEN)
    world.wait(1)
    world.up(GEMMA)
    world.wait(1)
    world.submit(LLAMA)
    assert world.engines == {QWEN: "closing", GEMMA: "ready"}
    world.closed(QWEN)
    assert world.engines == {GEMMA: "ready", LLAMA: "loading"}


def test_eviction_spares_models_that_make_no_room() -> None:
    world = board()
    world.up(QWEN)
    world.wait(1)
    world.up(GEMMA)
    world.memory = 6 * GB
    world.submit(LLAMA)
    assert world.engines == {QWEN: "ready", GEMMA: "closing"}, "3 GB are enough; the older 2 GB are not needed for it"


def test_a_busy_model_answers_first_and_then_makes_room() -> None:
    world = board()
    world.memory = 5 * GB
    world.up(GEMMA)
    running, before = world.submit(GEMMA), world.submit(GEMMA)
    waits = world.submit(LLAMA)
    after = world.submit(GEMMA)
    assert world.engines == {GEMMA: "ready"}
    world.finish(running)
    assert list(world.running) == [before], "who came before the other model's client is answered before"
    world.finish(before)
    assert world.engines == {GEMMA: "closing"}
    world.closed(GEMMA)
    world.loaded(LLAMA)
    assert list(world.running) == [waits]
    world.finish(waits)
    world.closed(LLAMA)
    world.loaded(GEMMA)
    assert list(world.running) == [after]


def test_a_model_whose_turn_on_the_npu_is_still_to_come_is_not_taken_away_before_it() -> None:
    world = board(pinned=frozenset({QWEN}))
    world.memory = 6 * GB
    world.up(QWEN, GEMMA)
    running, before = world.submit(QWEN), world.submit(GEMMA)
    world.submit(LLAMA)
    assert world.engines[GEMMA] == "ready"
    world.finish(running)
    assert list(world.running) == [before]
    world.finish(before)
    assert world.engines[GEMMA] == "closing"


def test_a_pinned_model_stays_and_the_refusal_names_it() -> None:
    world = board()
    world.load(GEMMA, pin=True)
    world.loaded(GEMMA)
    world.memory = int(6.1 * GB)
    ticket = world.submit(LLAMA)
    refused = world.refused[ticket]
    assert isinstance(refused, OutOfMemory)
    assert refused.sentence == "llama needs 4.0 GB of memory and 3.1 GB are free."
    assert refused.hint == "gemma is pinned; unloading it frees 3.0 GB: exo-rkllm unload gemma"
    assert world.engines == {GEMMA: "ready"}


def test_model_that_can_never_fit_is_refused_without_unloading_another() -> None:
    world = board()
    world.up(QWEN)
    refused = world.refused[world.submit(BIG)]
    assert refused.sentence == "big needs 9.0 GB of memory and 6.0 GB are free, 8.0 GB with nothing else loaded."
    assert "smaller" in refused.hint
    assert world.engines == {QWEN: "ready"}


def test_the_reserve_is_not_given_away() -> None:
    world = board(reserve=5 * GB)
    assert "3.0 GB are free" in world.refused[world.submit(LLAMA)].sentence


def test_a_model_without_needs_is_never_refused_for_memory() -> None:
    world = board(reserve=50 * GB)
    world.up(REMOTE)
    assert world.engines == {REMOTE: "ready"}


def test_a_model_that_took_more_than_its_card_says_is_believed_the_next_time() -> None:
    world = board()
    world.up(QWEN)
    world.happen(on.MemoryMeasuredEvent(QWEN, 0, {QWEN: 7 * GB}))
    assert world.state.models[QWEN].memory_needed == 7 * GB


def test_max_loaded_unloads_the_longest_unused() -> None:
    world = board(max_loaded=2)
    world.up(QWEN)
    world.wait(1)
    world.up(REMOTE)
    world.submit(GEMMA)
    assert world.engines == {QWEN: "closing", REMOTE: "ready"}


def test_max_loaded_with_pinned_models_says_so() -> None:
    world = board(max_loaded=1, pinned=frozenset({QWEN}))
    world.up(QWEN)
    refused = world.refused[world.submit(GEMMA)]
    assert refused.sentence == "gemma would be one model more than models.max_loaded = 1 allows."
    assert refused.hint == "qwen is pinned; unloading it frees 2.0 GB: exo-rkllm unload qwen"


def test_models_get_address_windows_of_their_own_and_share_when_there_are_none() -> None:
    world = board(domains=2)
    world.memory = 64 * GB
    world.up(QWEN, GEMMA, REMOTE)
    assert [world.state.models[name].domain for name in (QWEN, GEMMA, REMOTE)] == [0, 1, None]
    world.needs = {**world.needs, "tiny": ModelNeeds(1 * GB, 1 * GB)}
    world.up("tiny")
    assert world.state.models["tiny"].domain == 0


def test_a_model_larger_than_a_window_takes_several_in_a_row() -> None:
    world = board()
    world.memory = 64 * GB
    world.up(QWEN, BIG, GEMMA)
    assert [world.state.models[name].domain for name in (QWEN, BIG, GEMMA)] == [0, 1, 4]


def test_no_addresses_left_is_a_sentence_of_its_own() -> None:
    world = board(domains=1, pinned=frozenset({GEMMA}))
    world.memory = 64 * GB
    world.up(GEMMA)
    refused = world.refused[world.submit(LLAMA)]
    assert refused.sentence == "llama needs 4.0 GB of NPU addresses, and the driver's 1 windows of 4.2 GB have no room."


def test_a_card_may_insist_on_a_domain() -> None:
    world = board()
    world.needs = {**world.needs, QWEN: ModelNeeds(1, 1, domain=7)}
    world.up(QWEN)
    assert world.state.models[QWEN].domain == 7


def test_language_models_leave_the_lowest_domain_to_others() -> None:
    world = board(domains=4, lowest_domain=1)
    world.memory = 64 * GB
    world.needs = {**world.needs, LLAMA: ModelNeeds(1, 1, domain=0)}
    world.up(QWEN, LLAMA, GEMMA)
    assert [world.state.models[name].domain for name in (QWEN, LLAMA, GEMMA)] == [1, 0, 2], "a card's own wins"


def test_driver_with_one_window_has_only_the_lowest_domain() -> None:
    world = board(domains=1, lowest_domain=1)
    world.up(QWEN)
    assert world.state.models[QWEN].domain == 0


def test_model_on_the_npu_without_the_vendors_library_goes_on_when_that_is_missing() -> None:
    world = board()
    world.needs = {**world.needs, LLAMA: ModelNeeds(1, 1, library=False)}
    world.up(QWEN, LLAMA)
    world.happen(on.NpuUnavailableEvent(NpuUnavailable("No library."), npu_lost=False))
    assert world.engines == {QWEN: "closing", LLAMA: "ready"}
    world.happen(on.NpuUnavailableEvent(NpuUnavailable("No NPU.")))
    assert world.engines == {QWEN: "closing", LLAMA: "closing"}


# ── idle ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("keep_alive", "stays"), [(None, 300.0), (10.0, 10.0), (0.0, 0.0)])
def test_an_idle_model_is_unloaded_when_its_time_is_over(keep_alive: float | None, stays: float) -> None:
    world = board()
    world.up(QWEN)
    ticket = world.submit(QWEN, keep_alive=keep_alive)
    world.wait(1000)
    assert world.engines == {QWEN: "ready"}, "not while it answers"
    world.finish(ticket)
    if stays:
        world.wait(stays - 1)
        assert world.engines == {QWEN: "ready"}
        world.wait(1)
    assert world.engines == {QWEN: "closing"}


def test_negative_keep_alive_keeps_the_model_and_sets_no_timer() -> None:
    world = board()
    world.up(QWEN)
    world.finish(world.submit(QWEN, keep_alive=-1.0))
    assert deadline(world.state, world.now) is None
    world.up(GEMMA)
    world.memory = 5 * GB
    world.submit(LLAMA)
    assert world.engines[QWEN] == "closing", "but it is not pinned: it makes room"


def test_request_without_keep_alive_leaves_that_of_load() -> None:
    world = board()
    world.load(QWEN, keep_alive=3600.0)
    world.loaded(QWEN)
    world.finish(world.submit(QWEN, keep_alive=5.0))
    world.finish(world.submit(QWEN))
    world.wait(3599)
    assert world.engines == {QWEN: "ready"}


def test_unload_waits_for_the_answer_and_starts_no_other() -> None:
    world = board()
    world.load(QWEN, pin=True)
    world.loaded(QWEN)
    running, waits = world.submit(QWEN), world.submit(QWEN)
    world.happen(on.UnloadEvent(QWEN))
    assert list(world.running) == [running]
    world.finish(running)
    assert world.engines == {QWEN: "closing"}
    world.closed(QWEN)
    world.loaded(QWEN)
    assert list(world.running) == [waits], "who waited is answered by the same model, loaded again"
    assert not world.state.pinned(world.state.models[QWEN])


def test_unload_ends_a_load() -> None:
    world = board()
    world.load(QWEN)
    world.happen(on.UnloadEvent(QWEN))
    assert world.engines == {QWEN: "closing"}
    assert [error.code for _, error in world.settled if error] == ["runner_lost"]


def test_load_of_a_model_that_is_loaded_is_done_at_once() -> None:
    world = board()
    world.up(QWEN)
    world.settled.clear()
    world.load(QWEN)
    assert world.settled == [(QWEN, None)]


# ── what breaks ──────────────────────────────────────────────────────────────────────────────────


def test_a_crash_costs_one_answer() -> None:
    world = board()
    world.up(QWEN)
    _, waits = world.submit(QWEN), world.submit(QWEN)
    world.lost(QWEN, DIED)
    assert list(world.waiting) == [waits]
    world.closed(QWEN)
    world.loaded(QWEN)
    assert list(world.running) == [waits]


def crash(world: World) -> None:
    world.lost(QWEN, DIED)
    world.closed(QWEN)


def test_each_crash_without_an_answer_delays_the_next_load_and_then_bars_the_model() -> None:
    world = board()
    world.up(QWEN)
    waits = world.submit(QWEN)
    for delay in BACK_OFF:
        waits = world.submit(QWEN)
        crash(world)
        assert waits in world.waiting
        if delay:
            assert world.engines == {}
            world.wait(delay)
        world.loaded(QWEN)
    crash(world)
    refused = world.refused[world.submit(QWEN)]
    assert refused.sentence == (
        "qwen died 4 times in a row and is not loaded for another 120 s: The process of qwen was killed by SIGSEGV."
    )
    world.wait(BAR)
    world.submit(QWEN)
    assert world.engines == {QWEN: "loading"}


def test_answer_between_two_crashes_forgives_the_first() -> None:
    world = board()
    world.up(QWEN)
    for _ in range(10):
        ticket = world.submit(QWEN)
        crash(world)
        ticket = world.submit(QWEN)
        world.loaded(QWEN)
        world.finish(ticket)
    assert world.engines == {QWEN: "ready"}


def test_a_pinned_model_that_died_comes_back_by_itself() -> None:
    world = board(pinned=frozenset({QWEN}))
    world.up(QWEN)
    crash(world)
    assert world.engines == {QWEN: "loading"}


def test_an_idle_model_that_died_waits_to_be_asked_for() -> None:
    world = board()
    world.up(QWEN)
    crash(world)
    assert world.engines == {}


def test_a_load_that_fails_refuses_who_waits_for_it_and_is_tried_again_when_asked() -> None:
    world = board()
    tickets = [world.submit(QWEN), world.submit(QWEN)]
    world.lost(QWEN, LoadError("The file is not for this chip."))
    assert {world.refused[ticket].sentence for ticket in tickets} == {"The file is not for this chip."}
    world.closed(QWEN)
    assert world.engines == {}
    world.submit(QWEN)
    assert world.engines == {QWEN: "loading"}


# ── the board ────────────────────────────────────────────────────────────────────────────────────

AWAY = NpuUnavailable("The NPU is gone: its driver was unbound.", "exo-rkllm doctor")


def test_a_board_that_goes_away_ends_what_runs_and_refuses_what_comes() -> None:
    world = board()
    world.up(QWEN, REMOTE)
    world.submit(QWEN)
    waits = world.submit(QWEN)
    world.submit(REMOTE)
    world.happen(on.NpuUnavailableEvent(AWAY))
    assert list(world.running.values()) == [REMOTE], "which never needed the NPU"
    assert f"CloseEngineEffect(model='qwen', reason={AWAY!r})" in world.log
    assert world.refused[world.submit(QWEN)] is AWAY
    world.closed(QWEN)
    assert world.engines == {REMOTE: "ready"}
    world.happen(on.NpuUnavailableEvent(None))
    world.loaded(QWEN)
    assert waits in world.running, "who waited is answered when the board is back"


def test_pinned_models_return_with_the_board_and_others_when_asked() -> None:
    world = board(pinned=frozenset({QWEN}))
    world.up(QWEN, GEMMA)
    world.happen(on.NpuUnavailableEvent(AWAY))
    world.closed(QWEN)
    world.closed(GEMMA)
    world.happen(on.NpuUnavailableEvent(None))
    assert world.engines == {QWEN: "loading"}


def test_preload_without_a_board_waits_for_the_board() -> None:
    world = board(pinned=frozenset({QWEN}))
    world.happen(on.NpuUnavailableEvent(AWAY))
    world.load(QWEN)
    assert world.settled == [(QWEN, AWAY)]
    world.happen(on.NpuUnavailableEvent(None))
    assert world.engines == {QWEN: "loading"}


def test_a_load_without_a_board_is_refused_and_a_pinned_one_remembered() -> None:
    world = board()
    world.happen(on.NpuUnavailableEvent(AWAY))
    world.load(QWEN, pin=True)
    world.load(GEMMA)
    assert world.settled == [(QWEN, AWAY), (GEMMA, AWAY)]
    world.happen(on.NpuUnavailableEvent(None))
    assert world.engines == {QWEN: "loading"}


# ── the end ──────────────────────────────────────────────────────────────────────────────────────


def test_drain_lets_answers_end_and_sends_the_others_away() -> None:
    world = board()
    world.up(QWEN)
    runs, waits = world.submit(QWEN), world.submit(QWEN)
    world.happen(on.DrainEvent())
    late = world.submit(QWEN)
    assert list(world.running) == [runs]
    assert {world.refused[ticket].sentence for ticket in (waits, late)} == {"exo-rkllm is shutting down."}
    world.finish(runs)
    world.happen(on.StopEvent())
    assert world.engines == {QWEN: "closing"}
    world.closed(QWEN)
    assert world.engines == {}


def test_new_limits_refuse_no_request_that_waits() -> None:
    world = board()
    world.up(QWEN)
    world.submit(QWEN)
    waits = [world.submit(QWEN) for _ in range(5)]
    world.happen(on.LimitsChangedEvent(replace(world.limits, queue=1, keep_alive=1.0)))
    assert list(world.waiting) == waits
    assert world.submit(QWEN) in world.refused


def test_evolved_value_is_what_replace_makes() -> None:
    model = ModelState("qwen", phase="ready")
    assert evolved(model, phase="cold", memory=7) == replace(model, phase="cold", memory=7)
    assert model == ModelState("qwen", phase="ready")
    with pytest.raises(TypeError, match="ModelState has no phaze"):
        evolved(model, phaze="cold")


# ── the run that follows ─────────────────────────────────────────────────────────────────────────


def test_engine_may_have_the_next_run_ahead_and_it_is_the_one_that_starts() -> None:
    world = board()
    world.up(QWEN)
    first, second, third = world.submit(QWEN, "a"), world.submit(QWEN, "a"), world.submit(QWEN, "a")
    assert world.ahead == {QWEN: second}
    world.finish(first)
    assert (list(world.running), world.ahead) == ([second], {QWEN: third})
    world.leave(third)
    assert world.ahead == {}


def test_better_request_takes_the_place_of_the_one_ahead() -> None:
    world = board()
    world.up(QWEN)
    first, second, other = world.submit(QWEN, "a"), world.submit(QWEN, "a"), world.submit(QWEN, "b")
    assert world.ahead == {QWEN: other}, "b's first comes before a's second"
    world.leave(other)
    assert world.ahead == {QWEN: second}
    world.finish(first)
    assert list(world.running) == [second]


@pytest.mark.parametrize("what", ["lease", "model", "unload", "drain", "lost"])
def test_run_ahead_is_withdrawn_where_something_else_comes_before_it(what: str) -> None:
    world = board()
    world.up(QWEN, GEMMA)
    first, second = world.submit(QWEN, "a"), world.submit(QWEN, "a")
    assert world.ahead == {QWEN: second}
    if what == "lease":
        world.ask_lease()
    elif what == "model":
        world.submit(GEMMA, "a")
    elif what == "unload":
        world.happen(on.UnloadEvent(QWEN))
    elif what == "drain":
        world.happen(on.DrainEvent())
    else:
        world.lost(QWEN, DIED)
    assert world.ahead == {}
    assert (second in world.waiting) == (what != "drain")
    if first in world.running:
        world.finish(first)
    assert second not in world.running


def test_engine_with_slots_has_nothing_ahead() -> None:
    world = board()
    world.slots = {QWEN: 2}
    world.up(QWEN)
    for _ in range(4):
        world.submit(QWEN)
    assert (len(world.running), world.ahead) == (2, {})


def test_run_that_begins_by_itself_is_not_refused_at_that_moment() -> None:
    world = board(queue_seconds=60.0)
    world.up(QWEN)
    first, second = world.submit(QWEN), world.submit(QWEN)
    world.now += 60.0
    world.finish(first)
    assert list(world.running) == [second]
