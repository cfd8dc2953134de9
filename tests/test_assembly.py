"""What every process that serves models is built of, and that it is built in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from exo_rkllm.assembly import NO_PLUGINS, OVERHEAD, Node, open_node
from exo_rkllm.backends.dummy import DummyModel
from exo_rkllm.backends.rkllm import RkllmFile
from exo_rkllm.catalogue.card import parse
from exo_rkllm.catalogue.store import Entry
from exo_rkllm.config import load
from exo_rkllm.dispatch.state import ModelNeeds
from tests.test_house import MODULES, PACKAGE

BUILT_HERE = {
    "Catalogue",
    "PluginContributions",
    "from_plugins",
    "EngineRegistry",
    "EngineHost",
    "engine_host",
    "Dispatcher",
}
# Where a class is defined it may also name itself.
OWN = {"backends/host.py": {"EngineHost"}, "catalogue/contributions.py": {"PluginContributions"}}


def calls(source: str) -> set[str]:
    """Names that are called, as they are or as an attribute of something."""
    functions = [one.func for one in ast.walk(ast.parse(source)) if isinstance(one, ast.Call)]
    return {one.id for one in functions if isinstance(one, ast.Name)} | {
        one.attr for one in functions if isinstance(one, ast.Attribute)
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_assembly_builds_catalogue_engines_and_dispatcher(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    if name != "assembly.py":
        assert not (calls(path.read_text()) & BUILT_HERE) - OWN.get(name, set())


def test_another_builder_would_be_seen() -> None:
    assert "Dispatcher" in calls("from exo_rkllm.dispatch import dispatcher\nx = dispatcher.Dispatcher(find=None)")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return open_node(load({"HOME": str(tmp_path)}), NO_PLUGINS)


def test_card_tells_what_the_model_takes(node: Node, tmp_path: Path) -> None:
    (tmp_path / "m.rkllm").write_bytes(bytes(5000))
    card = 'id = "m"\nmemory = 777\n[weights]\nfile = "m.rkllm"\n[options]\nbase_domain_id = 3'
    assert node.needs(Entry(tmp_path, parse(card))) == ModelNeeds(777, 5000, 3)


def test_file_tells_what_a_model_without_a_figure_takes(node: Node, tmp_path: Path) -> None:
    (tmp_path / "m.rkllm").write_bytes(bytes(5000))
    assert node.needs(RkllmFile(tmp_path / "m.rkllm")) == ModelNeeds(5000 + OVERHEAD, 5000)
    assert node.needs(RkllmFile(tmp_path / "gone.rkllm")) == ModelNeeds(0, 1), "loading it says what is wrong"
    assert node.needs(DummyModel()) == ModelNeeds(0)
