"""What to do where a model's answer leaves its form: a pure decision over how often it did so at one place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

# force: the model goes on behind what has no alternative. step: behind a character that is chosen for it. finish: the
# answer is completed without it.
Repair: TypeAlias = Literal["force", "step", "finish"]

# At one place the model is asked so often; twice the same answer is insistence, too.
TRIES = 3
# Of one answer, and for so many of its tokens another one: a model may err with every tenth token.
MOST_REPAIRS, TOKENS_PER_REPAIR = 24, 4
# Characters chosen for it one after another without the model adding one of its own.
MOST_STEPS = 8


@dataclass(frozen=True, slots=True)
class RepairState:
    """`place` is how long the answer was when the model left its form, `words` what it wanted to say there."""

    repairs: int = 0
    place: int = -1
    tries: int = 0
    words: str = ""
    steps: int = 0


def after_rejection(state: RepairState, place: int, words: str, tokens: int) -> tuple[RepairState, Repair]:
    """`place` is the length of the answer now, without what was forced since; it has so many tokens."""
    moved = place > state.place
    insists = not moved and words == state.words
    tries = 1 if moved else state.tries + 1
    state = replace(
        state,
        repairs=state.repairs + 1,
        place=place,
        tries=tries,
        words=words,
        steps=0 if moved else state.steps,
    )
    if state.repairs >= MOST_REPAIRS + tokens // TOKENS_PER_REPAIR or state.steps >= MOST_STEPS:
        return state, "finish"
    if tries < TRIES and not insists:
        return state, "force"
    return state, "step"


def after_step(state: RepairState, place: int) -> RepairState:
    """A character was chosen, and the answer is so long now."""
    return replace(state, place=place, tries=TRIES - 1, words="", steps=state.steps + 1)
