"""Prompt tokens that the cache saved are counted from what is known of the run before."""

from __future__ import annotations

from exo_rkllm.backends.ledger import Ledger

LAST = Ledger("user: hi there\n", 5, "hello to you", 4)


def test_the_next_turn_saves_question_and_answer() -> None:
    assert LAST.cached("user: hi there\nhello to you\nuser: and now\n", prefilled=6) == 9


def test_another_answer_to_the_same_question_saves_the_question() -> None:
    assert LAST.cached("user: hi there\n", prefilled=1) == 5


def test_an_unrelated_prompt_saves_nothing() -> None:
    assert LAST.cached("system: be brief\nuser: hi\n", prefilled=8) == 0


def test_a_runtime_that_cannot_reuse_is_believed() -> None:
    """Linear-attention models compute everything again before 1.3.1: the count itself says so."""
    prompt = "user: hi there\nhello to you\nuser: and now\n"
    assert LAST.cached(prompt, prefilled=14) == 0


def test_the_first_run_saves_nothing() -> None:
    assert Ledger().cached("hello", prefilled=2) == 0
