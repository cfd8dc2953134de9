"""Engines are rows; a card may set only what its engine has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from exo_rkllm.backends.base import JSON, Engine, Model, Tokenizer
from exo_rkllm.backends.dummy import DummyEngine, DummyModel
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.registry import BUILT_IN, OPTION_SPECS, EngineRegistry, EngineSpec
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.backends.rkllm_file import RkllmFile
from exo_rkllm.catalogue.card import parse
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.errors import NotSupported, UsageError

HOST = EngineHost(lambda _lines: None)
ECHO = EngineSpec("echo", "says it again", make=lambda model, _host: DummyEngine(model))


@pytest.mark.seed("4.1", "get_inference_engine error lists what is available")
def test_an_engine_that_nobody_installed_is_a_sentence(tmp_path: Path) -> None:
    model = Entry(tmp_path, parse('id = "m"\nengine = "quantum"'))
    with pytest.raises(NotSupported, match="m wants the engine 'quantum', which is not installed") as caught:
        EngineRegistry({"echo": ECHO}).make(model, HOST)
    assert "echo" in caught.value.hint


def test_a_model_gets_the_engine_that_it_names(tmp_path: Path) -> None:
    assert isinstance(EngineRegistry().make(DummyModel(), HOST), DummyEngine)
    assert isinstance(EngineRegistry().make(RkllmFile(tmp_path / "m.rkllm"), HOST), RkllmEngine)


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_row_is_filed_under_its_own_name(name: str) -> None:
    kind = EngineRegistry().get(name)
    assert kind is not None
    assert kind.name == name
    for option in kind.options.values():
        assert option.says
        OPTION_SPECS[option.type].check(option.default, name)


def test_a_plugin_cannot_take_the_name_of_one_of_ours() -> None:
    assert EngineRegistry({"dummy": ECHO}).get("dummy") is not ECHO


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"colour": "red"}, "Engine dummy refuses the card of m: there is no key options.colour"),
        ({"load_seconds": "long"}, "options.load_seconds must be a number, not 'long'"),
        ({"load_seconds": True}, "options.load_seconds must be a number, not true"),
        ({"load_seconds": -1}, "m sets load_seconds below 0"),
    ],
)
def test_what_an_engine_does_not_have_is_refused(options: Mapping[str, JSON], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        EngineRegistry().make(DummyModel("m", options=options), HOST)


@pytest.mark.seed("4.3", "abstract Model, Tokenizer, Engine")
@pytest.mark.parametrize(
    ("kind", "functions"),
    [
        (Engine, {"initialize", "capabilities", "generate", "abort", "lost", "close"}),
        (Model, {"id", "engine", "path", "context"}),
        (Tokenizer, {"encode", "decode"}),
    ],
)
def test_an_engine_that_leaves_something_out_cannot_be_made(kind: type, functions: set[str]) -> None:
    assert kind.__abstractmethods__ == functions  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (kind,), {})()


@pytest.mark.seed("4.3", "phase 1 (one backend, single device)")
def test_every_engine_says_how_a_model_is_spread() -> None:
    assert {EngineRegistry().get(name).parallelism for name in BUILT_IN} <= {"none", "server"}  # type: ignore[union-attr]
