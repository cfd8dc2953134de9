"""What every process that serves models is built of; test_house.py holds that only assembly.py builds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_rkllm.assembly import NO_PLUGINS, OVERHEAD, Node, open_node
from exo_rkllm.backends.dummy import DummyModel
from exo_rkllm.backends.rkllm_file import RkllmFile
from exo_rkllm.catalogue.card import parse
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.config import load
from exo_rkllm.dispatch.state import ModelNeeds


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
