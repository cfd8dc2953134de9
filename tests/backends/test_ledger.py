"""Prompt tokens that the cache saved are counted from what is known of the run before."""

from __future__ import annotations

import pytest

from exo_rkllm.backends.ledger import Ledger

LAST = Ledger("user: hi there\n", 5, "hello to you", 4)


def test_the_next_turn_saves_question_and_answer() -> None:
    assert LAST.cached("user: hi there\nhello to you\nuser: and now\n", prefilled=6) == 9


@pytest.mark.parametrize(("prompt", "length"), [("user: hi there\n", 5), ("user: hi there\nhello to you", 9)])
@pytest.mark.parametrize("prefilled", [1, 3, 20])
def test_a_prompt_that_is_held_whole_has_the_length_it_had(prompt: str, length: int, prefilled: int) -> None:
    """Its last token is computed all the same, and is not counted twice."""
    assert LAST.cached(prompt, prefilled) == max(0, length - prefilled)


def test_an_unrelated_prompt_saves_nothing() -> None:
    assert LAST.cached("system: be brief\nuser: hi\n", prefilled=8) == 0


def test_a_runtime_that_cannot_reuse_is_believed() -> None:
    """Linear-attention models compute everything again before 1.3.1: the count itself says so."""
    prompt = "user: hi there\nhello to you\nuser: and now\n"
    assert LAST.cached(prompt, prefilled=14) == 0


def test_the_first_run_saves_nothing() -> None:
    assert Ledger().cached("hello", prefilled=2) == 0
