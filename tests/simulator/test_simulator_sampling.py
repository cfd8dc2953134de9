"""Sampling where one can see it: which of a reply's alternatives is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.simulator.raw import Runtime

Make = Callable[..., Path]
CHOICES = " ".join(["[[red|green|blue]]"] * 12)


def answers(runtime: Runtime, handle: int, runs: int = 4, **sampling: float) -> set[str]:
    return {runtime.ask(handle, sampling=sampling or None).text for _ in range(runs)}


def test_greedy_says_the_same_every_time(runtime: Runtime, make_model: Make) -> None:
    model = make_model(reply=CHOICES)
    for fields in ({"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.0}):
        handle = runtime.open(model, repeat_penalty=1.0, **fields)
        assert answers(runtime, handle) == {" ".join(["red"] * 12)}
        runtime.close(handle)


def test_temperature_varies_the_wording(runtime: Runtime, make_model: Make) -> None:
    handle = runtime.open(make_model(reply=CHOICES), temperature=1.5)
    assert len(answers(runtime, handle)) > 1
    runtime.close(handle)


def test_the_variation_repeats_with_the_seed(newest: Runtime, make_model: Make) -> None:
    def series(seed: int) -> list[str]:
        handle = newest.open(make_model(reply=CHOICES, seed=seed), temperature=1.5)
        said = [newest.ask(handle).text for _ in range(3)]
        newest.close(handle)
        return said

    assert series(7) == series(7)
    assert series(7) != series(8)


def test_a_cooler_model_strays_less(newest: Runtime, make_model: Make) -> None:
    def strays(temperature: float) -> int:
        handle = newest.open(make_model(reply=CHOICES), temperature=temperature, top_p=1.0, repeat_penalty=1.0)
        text = " ".join(newest.ask(handle).text for _ in range(8))
        newest.close(handle)
        return text.count("green") + text.count("blue")

    assert 0 < strays(0.2) < strays(1.0) < strays(10.0)


def test_top_k_and_top_p_leave_the_unlikely_out(newest: Runtime, make_model: Make) -> None:
    model = make_model(reply=CHOICES)
    for fields, gone in (({"top_k": 2, "top_p": 1.0}, "blue"), ({"top_p": 0.7}, "blue"), ({"top_p": 0.3}, "green")):
        handle = newest.open(model, temperature=2.0, repeat_penalty=1.0, **fields)
        text = " ".join(newest.ask(handle).text for _ in range(6))
        assert gone not in text
        assert "red" in text
        newest.close(handle)


def test_mirostat_replaces_both(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(reply=CHOICES), temperature=2.0, top_p=0.3, mirostat=2)
    assert "blue" in " ".join(answers(newest, handle, 8))
    newest.close(handle)


def test_penalties_are_seen_even_by_a_greedy_model(newest: Runtime, make_model: Make) -> None:
    handle = newest.open(make_model(reply="[[red|green]] [[red|green]]"))
    for name, value, neutral in (
        ("repeat_penalty", 1.2, 1.0), ("frequency_penalty", 1.0, 0.0), ("presence_penalty", 1.0, 0.0)
    ):  # fmt: skip
        greedy = {"top_k": 1, "repeat_penalty": 1.0}
        assert newest.ask(handle, sampling={**greedy, name: neutral}).text == "red red"
        assert newest.ask(handle, sampling={**greedy, name: value}).text == "red green"
    newest.close(handle)


def test_penalties_forget_what_was_said_64_choices_ago(newest: Runtime, make_model: Make) -> None:
    for between, last in ((63, " green"), (64, " red")):
        reply = "[[red|green]]" + " [[x|y]]" * between + " [[red|green]]"
        handle = newest.open(make_model(reply=reply), top_k=1, presence_penalty=2.0, repeat_penalty=1.0)
        assert newest.ask(handle).text.endswith(last)
        newest.close(handle)


def test_a_runs_own_sampling_from_1_3_on(load: Callable[[str], Runtime], make_model: Make) -> None:
    for version in ("1.3.0", "1.3.1"):
        runtime = load(version)
        handle = runtime.open(make_model(reply=CHOICES), temperature=2.0, repeat_penalty=1.0)
        assert answers(runtime, handle, top_k=1, repeat_penalty=1.0) == {" ".join(["red"] * 12)}
        assert len(answers(runtime, handle)) > 1
        runtime.close(handle)


def test_brackets_that_are_no_alternatives_stay(newest: Runtime, make_model: Make) -> None:
    text = '{"a": [[1, 2], [3]], "b": "x|y", "c": {"d": {}}} [[1|[2]] {unknown} [[ | {'
    handle = newest.open(make_model(reply=text))
    assert newest.ask(handle).text == text
    newest.close(handle)
