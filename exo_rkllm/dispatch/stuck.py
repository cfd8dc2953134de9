"""Models that are stuck: in a phase for longer than anything may last there. Only the daemon's end helps then."""

from __future__ import annotations

from dataclasses import dataclass

from exo_rkllm.dispatch.life import CLOSE, LOAD
from exo_rkllm.dispatch.state import DispatchState

SLACK = 20.0
# `EngineLife` ends both phases itself, and waits CLOSE seconds for what it cancels. What lasts longer is our mistake.
LIMITS = {"loading": LOAD + CLOSE + SLACK, "closing": 2 * CLOSE + SLACK}
RESTART = "sudo systemctl restart exo-rkllm"


@dataclass(frozen=True, slots=True)
class StuckModel:
    """While one is stuck, no model can be loaded."""

    name: str
    phase: str
    sentence: str
    hint: str = RESTART


def stuck_models(state: DispatchState, now: float) -> tuple[StuckModel, ...]:
    """Models whose phase has lasted longer than its limit, by name."""
    return tuple(
        StuckModel(
            name,
            model.phase,
            f"{name} has been {model.phase} for {now - model.since:.0f} s, and no model can be loaded meanwhile.",
        )
        for name, model in sorted(state.models.items())
        if model.phase in LIMITS and now - model.since > LIMITS[model.phase]
    )
