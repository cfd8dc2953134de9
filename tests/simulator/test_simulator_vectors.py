"""Hidden states and logits: the right shape, the same every time, and near where texts are near (reference 2.6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from simulator import tokenizer
from tests.simulator.raw import ERROR, FINISH, G2_HIDDEN, HIDDEN, LOGITS, NORMAL, Runtime

Make = Callable[..., Path]
VOCABULARY = len(tokenizer.pieces())


def embedding(runtime: Runtime, handle: int, text: str) -> list[float]:
    tokens = tokenizer.encode(text)
    run = runtime.run(handle, runtime.inputs(tokens=tokens), runtime.infer(HIDDEN))
    assert len(run.rows) == len(tokens)
    return run.rows[-1]


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def test_the_order_of_calls(runtime: Runtime, make_model: Make) -> None:
    handle = runtime.open(make_model())
    run = runtime.ask(handle, mode=HIDDEN)
    assert run.states == [NORMAL, G2_HIDDEN if runtime.gen < 3 else NORMAL, FINISH]
    assert [bool(event.rows) for event in run.events] == [False, True, False]
    if runtime.gen >= 4:
        assert (run.perf.generate_tokens, run.perf.generate_ms) == (1, 0)
    runtime.close(handle)


def test_a_row_for_every_token_again_and_again(runtime: Runtime, make_model: Make) -> None:
    handle = runtime.open(make_model(embedding_length=48))
    run = runtime.ask(handle, "Hello", mode=HIDDEN)
    again = runtime.ask(handle, "Hello", mode=HIDDEN)
    assert len(run.rows) > 10
    assert {len(row) for row in run.rows} == {48}
    assert run.rows == again.rows
    runtime.close(handle)


def test_near_texts_have_near_vectors(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model())
    dog, puppy, tax = (
        embedding(newest, handle, text)
        for text in ("The dog runs in the garden", "A Dog ran through the Garden.", "Invoice number nine is overdue")
    )
    assert cosine(dog, puppy) > 0.5 > cosine(dog, tax)
    newest.close(handle)


def test_versions_agree(load: Callable[[str], Runtime], make_model: Make) -> None:
    vectors = []
    for version in ("1.1.4", "1.2.3", "1.3.1"):
        runtime = load(version)
        handle = runtime.open(make_model())
        vectors.append(embedding(runtime, handle, "Hello world"))
        runtime.close(handle)
    assert vectors[0] == vectors[1] == vectors[2]


def test_embedding_input_shows_in_the_hidden_states(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(embedding_length=4))
    run = newest.run(handle, newest.inputs(embed=[1, 2, 3, 4, 5, 6, 7, 8], rows=2), newest.infer(HIDDEN))
    assert run.rows[0] == [1, 2, 3, 4]
    assert run.rows[1] == pytest.approx([(a + b) / math.sqrt(2) for a, b in ((1, 5), (2, 6), (3, 7), (4, 8))])
    newest.close(handle)


def test_logits_point_at_the_next_token(modern: Runtime, make_model: Make) -> None:
    handle = modern.open(make_model(reply="yes of course"))
    tokens = tokenizer.encode("one two three")
    run = modern.run(handle, modern.inputs(tokens=tokens), modern.infer(LOGITS))
    assert next(event for event in run.events if event.rows).logits
    assert [len(row) for row in run.rows] == [VOCABULARY] * 3
    best = [max(range(VOCABULARY), key=row.__getitem__) for row in run.rows]
    assert best == [*tokens[1:], tokenizer.token("yes")]
    modern.close(handle)


def test_logits_may_be_of_the_last_token_only(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(reply="yes", logits_last_only=True))
    rows = newest.ask(handle, mode=LOGITS).rows
    assert len(rows) == 1
    assert rows[0].index(max(rows[0])) == tokenizer.token("yes")
    newest.close(handle)


def test_a_released_buffer_is_gone_and_the_run_goes_on(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model())
    newest.on_event = lambda event: 2 if event.rows else 0
    assert newest.ask(handle, mode=HIDDEN).states == [NORMAL, NORMAL, FINISH]
    newest.close(handle)


def test_batches_have_neither(newest: Runtime, make_model: Make, capfd: pytest.CaptureFixture[str]) -> None:
    handle = newest.open(make_model(), n_batch=2)
    run = newest.run(handle, newest.inputs(["a", "b"]), newest.infer(LOGITS))
    assert (run.status, run.states) == (-1, [ERROR])
    assert "E rkllm: Getting the logits is not supported for multiple batches" in capfd.readouterr().out
    newest.close(handle)


def test_1_1_has_no_logits(load: Callable[[str], Runtime], make_model: Make, capfd: pytest.CaptureFixture[str]) -> None:
    runtime = load("1.1.4")
    handle = runtime.open(make_model())
    assert runtime.ask(handle, mode=LOGITS).status == -1
    assert "mode is 2, expected 0 to 1" in capfd.readouterr().out
    runtime.close(handle)
