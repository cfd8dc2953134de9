"""Whose turn it is: models and other programs' leases share the NPU, clients share a model."""

from __future__ import annotations

from exo_rkllm.dispatch.queue import QueueEntry
from exo_rkllm.dispatch.state import DispatchState, ModelState


def next_turn(state: DispatchState) -> tuple[ModelState | None, QueueEntry] | None:
    """Who may start next: models and leases (None) take turns on the NPU, clients take turns on a model."""
    heads = [(model, entry) for model in state.models.values() if (entry := _head(state, model)) is not None]
    holders = {model.name for model in state.models.values() if model.needs.npu and model.running}
    on_npu = [model.name for model, _ in heads if model.needs.npu]

    lease, lease_waits = state.lease, state.lease_ticket is not None

    def may_start(model: ModelState) -> bool:
        if not model.needs.npu:
            return True
        if lease.holder is not None:
            return False
        if model.name in holders:  # it goes on adding runs only while nobody else waits for a turn
            return not lease_waits and all(name in holders for name in on_npu)
        if holders and lease_waits and lease.last_turn < model.last_turn:
            return False
        return len(holders) < state.limits.npu_parallel

    turns: list[tuple[int, ModelState | None, QueueEntry]]
    turns = [(model.last_turn, model, entry) for model, entry in heads if may_start(model)]
    if lease_waits and not holders:  # it has the NPU to itself, whatever npu_parallel is
        turns += [(lease.last_turn, None, lease.queue.entries[0])]
    first = min(turns, key=lambda turn: turn[0], default=None)
    return None if first is None else first[1:]


def following(state: DispatchState, model: ModelState) -> int | None:
    """The ticket that will start when the model's only run ends, if nothing else happens until then; None where
    another model or a lease takes the turn."""
    if not model.queue or model.slots != 1 or len(model.running) != 1:
        return None
    turn = next_turn(state.change(model.name, running=frozenset()))
    return turn[1].ticket if turn is not None and turn[0] is not None and turn[0].name == model.name else None


def _head(state: DispatchState, model: ModelState) -> QueueEntry | None:
    """A model for whose end another one waits serves only who came before that one was wanted."""
    if model.phase != "ready" or model.unload_when_idle or len(model.running) >= model.slots:
        return None
    others = (other for other in state.models.values() if model.name in other.waits_for_models)
    return model.queue.next(min((other.claim for other in others if state.may_load(other)), default=None), model.hot)
