"""Sampling settings are rows of one table; every language's names and every engine's share are derived from it."""

from __future__ import annotations

import pytest

from exo_rkllm import sampling
from exo_rkllm.backends.registry import BUILT_IN, EngineRegistry
from exo_rkllm.sampling import SAMPLING_NAMES, SETTINGS, Sampling


def test_settings_are_read_by_the_names_of_a_language() -> None:
    task = {"temperature": 0, "repetition_penalty": 1.1, "repeat_penalty": 3, "top_k": 2.5, "seed": None, "min_p": "x"}
    assert sampling.read(task, sampling.EXO) == Sampling(temperature=0.0, repeat_penalty=1.1)
    assert sampling.read(task) == Sampling(temperature=0.0, repeat_penalty=3.0)


def test_requested_settings_go_over_the_defaults() -> None:
    merged = Sampling(temperature=0.0, seed=3).over(Sampling(temperature=1.0, top_k=4))
    assert merged.explicit() == {"temperature": 0.0, "top_k": 4, "seed": 3}


def test_engine_gets_what_it_takes_by_its_names_and_loses_only_what_has_an_effect() -> None:
    wanted = Sampling(temperature=0.5, repeat_penalty=1.1, min_p=0.0, mirostat=2)
    assert wanted.for_engine({"temperature", "repeat_penalty"}, sampling.VLLM) == (
        {"temperature": 0.5, "repetition_penalty": 1.1},
        ["mirostat"],
    )


@pytest.mark.parametrize("engine", BUILT_IN)
def test_engine_declares_known_settings_only(engine: str) -> None:
    spec = EngineRegistry().get(engine)
    assert spec is not None and spec.sampling <= SAMPLING_NAMES


def test_off_values_are_within_the_limits_and_every_row_is_described() -> None:
    for setting in SETTINGS:
        assert setting.about.endswith(".")
        if setting.name in sampling.OFF:
            setting.kind.check(sampling.OFF[setting.name], setting.name)
