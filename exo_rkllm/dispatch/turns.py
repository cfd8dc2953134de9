"""Who may start next: models take turns on the NPU, clients take turns on a model."""

from __future__ import annotations

from exo_rkllm.dispatch.queue import QueueEntry
from exo_rkllm.dispatch.state import DispatchState, ModelState


def next_turn(state: DispatchState) -> tuple[str, QueueEntry] | None:
    """The model that started longest ago, of those that may start something now."""
    ready = [(model, entry) for model in state.models.values() if (entry := _head(state, model)) is not None]
    holders = {model.name for model in state.models.values() if model.needs.npu and model.running}
    on_npu = [model.name for model, _ in ready if model.needs.npu]

    def may_start(model: ModelState) -> bool:
        if not model.needs.npu:
            return True
        if model.name in holders:  # it goes on adding runs only while no other model waits for its turn
            return all(name in holders for name in on_npu)
        return len(holders) < state.limits.npu_parallel

    able = [(model, entry) for model, entry in ready if may_start(model)]
    if not able:
        return None
    model, entry = min(able, key=lambda pair: pair[0].turn)
    return model.name, entry


def _head(state: DispatchState, model: ModelState) -> QueueEntry | None:
    """A model that somebody's load waits for serves only who came before that load was asked for."""
    if model.phase != "ready" or model.unload or len(model.running) >= model.slots:
        return None
    claims = [other.claim for other in state.models.values() if model.name in other.corner and state.expects(other)]
    return model.line.next(min(claims, default=None))
