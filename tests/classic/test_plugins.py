"""A plugin has the same effect inside exo, classic or current, as in the daemon."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm import models
from exo_rkllm.engine import RKLLMInferenceEngine
from exo_rkllm.exo_engine import NpuBuilder
from exo_rkllm.plugins.registry import Registry
from simulator import tokenizer
from tests.classic.current import EXO, Cancels, Runner, task
from tests.classic.node import ask, whole
from tests.daemon.running import REPOSITORY
from tests.plugins.conftest import registry
from tests.plugins.packages import Shelf

__all__ = ["registry"]

FAMILY = """\
import os
from exo_rkllm.plugins import ModelSpec, register_model

class Words:
    def __init__(self, folder): pass
    def encode(self, text): return [len(word) for word in text.split()]
    def decode(self, tokens): return " ".join("z" * token for token in tokens)

def child():
    with open(os.environ["ZORG_NOTES"], "a") as notes:
        notes.write(f"{os.getpid()}\\n")

SPEC = ModelSpec(
    model_type="zorg",
    template="zorg({{ messages[-1].content }})",
    stop=("<zorg>",),
    processor_cls=Words,
    runner_modules=("zorg:child",),
)

def register():
    register_model(SPEC)
"""
ENGINE = """\
from exo_rkllm.backends.dummy import DummyEngine
from exo_rkllm.backends.registry import EngineSpec
SPEC = EngineSpec("echo", "says it again", make=lambda model, host: DummyEngine(model), formats=(".echo",))
"""
REPLY = "it is all<zorg> that was said"
ZORG = '[chat]\nfamily = "zorg"\n'


@pytest.fixture
def notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry, add: Callable[..., str]
) -> Callable[[], list[str]]:
    """The plugin is installed; what its module in a model's process has noted."""
    shelf = Shelf(tmp_path / "shelf")
    shelf.folder.mkdir()
    shelf.add(
        "zorg",
        {"exo_rkllm.plugins": {"zorg": "zorg:register"}, "exo_rkllm.backends": {"echo": "zorg_engine:SPEC"}},
        zorg=FAMILY,
        zorg_engine=ENGINE,
    )
    monkeypatch.syspath_prepend(str(shelf.folder))
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY}:{shelf.folder}")
    path = tmp_path / "notes"
    path.touch()
    monkeypatch.setenv("ZORG_NOTES", str(path))
    return lambda: path.read_text().splitlines()


def is_another_process(noted: list[str]) -> bool:
    return len(noted) == 1 and noted[0] != str(os.getpid())


async def test_classic_engine_uses_a_plugins_tokenizer_stop_strings_and_runner_module(
    add: Callable[..., str], notes: Callable[[], list[str]], make_engine: Callable[..., RKLLMInferenceEngine]
) -> None:
    model = add("ours", reply=REPLY, card=ZORG)
    engine = make_engine()
    assert (await engine.encode(whole(model), "one three")).tolist() == [3, 5]
    answer = await ask([engine], [whole(model)], "anything", "r1")
    assert tokenizer.decode(answer.tokens[:-1]).strip() == "it is all"
    assert is_another_process(notes())


def test_current_exos_engine_uses_a_plugins_template_stop_strings_and_runner_module(
    add: Callable[..., str], notes: Callable[[], list[str]]
) -> None:
    add("ours", reply="{prompt} " + REPLY, card=ZORG)
    builder = NpuBuilder(Cancels(), EXO)
    try:
        (answer,) = Runner(builder, "rkllm/ours").work(task("one", "hello"))
        assert answer.text.strip() == "zorg(hello) it is all"
    finally:
        builder.close()
    assert is_another_process(notes())


def test_cards_for_classic_exo_name_a_plugins_engine(
    add: Callable[..., str], notes: Callable[[], list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "models/heard"
    folder.mkdir(parents=True)
    (folder / "m.echo").write_text("x")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.toml").write_text('id = "heard"\n[weights]\nfile = "m.echo"\n')
    cards: dict[str, Any] = models.RKLLM_MODELS
    assert cards["heard-rkllm"]["rkllm_engine"] == "echo"
