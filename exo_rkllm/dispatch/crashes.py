"""An engine that died is loaded again, later each time; one that keeps dying is left alone for a while."""

from __future__ import annotations

from dataclasses import replace

from exo_rkllm.dispatch.state import ModelState
from exo_rkllm.errors import RunnerLost

# Crashes without an answer in between: the delays before the next loads, then the bar.
BACK_OFF = (0.0, 2.0, 8.0)
BAR = 120.0
# Crashes further apart than this have nothing to do with each other.
MEMORY = 600.0


def after_crash(model: ModelState, now: float) -> ModelState:
    crashes = (*(moment for moment in model.crashes if moment > now - MEMORY), now)
    if len(crashes) > len(BACK_OFF):
        return replace(model, crashes=(), retry_at=now + BAR, barred_until=now + BAR)
    return replace(model, crashes=crashes, retry_at=now + BACK_OFF[len(crashes) - 1])


def barred(model: ModelState, now: float) -> RunnerLost:
    times = len(BACK_OFF) + 1
    reason = model.error.sentence if model.error else "no reason is known."
    wait = model.barred_until - now
    return RunnerLost(
        f"{model.name} died {times} times in a row and is not loaded for another {wait:.0f} s: {reason}",
        "Look into the log: exo-rkllm logs",
    )
