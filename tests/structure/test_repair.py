"""What is done where an answer leaves its form, and where in the text an answer begins."""

from __future__ import annotations

from typing import Any

import pytest

from exo_rkllm.backends.base import GenerationRequest
from exo_rkllm.chat.formats import REASONING, TOOLS
from exo_rkllm.chat.prompt import Prompt
from exo_rkllm.structure.lead import Lead
from exo_rkllm.structure.repair import (
    MOST_REPAIRS,
    MOST_STEPS,
    TOKENS_PER_REPAIR,
    TRIES,
    RepairState,
    after_rejection,
    after_step,
)


def test_model_is_asked_again_until_it_insists() -> None:
    state, repairs = RepairState(), []
    for words in ("one", "two", "three"):
        state, repair = after_rejection(state, 5, words, 0)
        repairs.append(repair)
    assert repairs == ["force", "force", "step"] and len(repairs) == TRIES
    state, repair = after_rejection(RepairState(), 5, "one", 0)
    assert after_rejection(state, 5, "one", 0)[1] == "step", "twice the same is insistence"
    assert after_rejection(state, 6, "one", 0)[1] == "force", "it went on in between"


def test_model_that_adds_nothing_to_what_was_chosen_is_asked_no_more() -> None:
    state, place, steps = RepairState(), 0, 0
    state, _ = after_rejection(state, place, "no", 0)
    while (decided := after_rejection(state, place, f"no {steps}", 0))[1] == "step" or steps == 0:
        place += 1
        state, steps = after_step(decided[0], place), steps + 1
    assert (decided[1], steps) == ("finish", MOST_STEPS)


def test_repairs_are_bounded_by_the_answers_length() -> None:
    for tokens, allowed in ((0, MOST_REPAIRS), (400, MOST_REPAIRS + 400 // TOKENS_PER_REPAIR)):
        state, repair, asked = RepairState(), "force", 0
        while repair == "force":
            asked += 1
            state, repair = after_rejection(state, asked, "x", tokens)
        assert (repair, asked) == ("finish", allowed)


# ── where the answer begins ──────────────────────────────────────────────────────────────────────


def lead(*, json: bool = True, **fields: Any) -> Lead:
    return Lead(Prompt.of(GenerationRequest(prompt="p"), **fields), json=json)


def fed(lead: Lead, text: str, size: int) -> tuple[str, str]:
    """What goes through and what has to match, of a text in pieces of that size."""
    parts = [lead.feed(text[at : at + size]) for at in range(0, len(text), size)]
    return "".join(one for one, _ in parts), "".join(one for _, one in parts) + lead.end()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_answer_begins_behind_blanks_fences_and_thoughts(size: int) -> None:
    think = REASONING["think"]
    assert fed(lead(), ' \n{"a": 1}', size) == ("", '{"a": 1}')
    assert fed(lead(), '```json\n{"a": 1}\n```', size) == ("", '{"a": 1}\n```')
    assert fed(lead(json=False), " ```js", size) == ("", "```js")
    opened = lead(reasoning=think)
    assert fed(opened, "<think>\nWell, {\n</think>\n\n{}", size) == ("<think>\nWell, {\n</think>", "{}")
    begun = lead(reasoning=think, thinking=True)
    assert fed(begun, "Well </thin\n</think>\n\n[]", size) == ("Well </thin\n</think>", "[]")
    assert fed(lead(reasoning=think), "<thorn", size) == ("", "<thorn")


@pytest.mark.parametrize("size", [1, 4, 100])
def test_call_that_is_only_offered_goes_through(size: int) -> None:
    offered = lead(tools=TOOLS["hermes"])
    assert fed(offered, "\n<tool_call>\n{}\n</tool_call>", size) == ("\n<tool_call>\n{}\n</tool_call>", "")
    assert offered.free
    forced = lead(tools=TOOLS["hermes"], call_start="<tool_call>\n", forced="look")
    assert fed(forced, ' {"a": 1}', size) == ("", '{"a": 1}')


def test_thoughts_without_an_end_are_closed() -> None:
    begun = lead(reasoning=REASONING["think"], thinking=True)
    assert begun.feed("Well, ") == ("Well, ", "")
    assert begun.close_thoughts() == "\n</think>\n\n"
    assert begun.close_thoughts() == "" and begun.feed("{") == ("", "{")
