"""Other names for models, and entries over other ones' weights, in the folder itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from exo_rkllm.catalogue import modelfile
from exo_rkllm.catalogue.aliases import alias_id, target_of
from exo_rkllm.catalogue.deriving import Recipe, add_alias, derive
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.errors import ModelExists, ModelNotFound, UsageError
from exo_rkllm.sampling import Sampling


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    for name, rest in (("qwen3-4b", '[weights]\nfile = "m.rkllm"\n'), ("far", 'engine = "openai"\n')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.toml").write_text(f'id = "{name}"\n{rest}')
    (tmp_path / "qwen3-4b" / "m.rkllm").write_bytes(b"weights")
    (tmp_path / "qwen3-4b" / "p_lora.rkllm").write_bytes(b"adapter")
    return Catalogue(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"), [("gpt-4o:latest", "gpt-4o"), ("A:7b", "a-7b"), ("a b", "a-b"), ("...", ""), ("", "")]
)
def test_ollamas_names_become_ids(name: str, expected: str) -> None:
    assert alias_id(name) == expected


def test_alias_is_heard_however_it_is_written() -> None:
    table = {"gpt-4o": "one", "Claude:3": "two"}
    for name, target in (("GPT-4o", "one"), ("gpt-4o:latest", "one"), ("claude:3", "two"), ("gpt-4", "")):
        assert target_of(name, table) == target


def test_alias_is_no_model_of_its_own(catalogue: Catalogue) -> None:
    assert add_alias(catalogue, "gpt-4o", catalogue.get("qwen3-4b")) == "gpt-4o"
    assert catalogue.resolve("gpt-4o").id == "qwen3-4b"
    assert catalogue.is_alias("gpt-4o") and not catalogue.is_alias("qwen3-4b")
    assert [entry.id for entry in catalogue.list()] == ["far", "qwen3-4b"]
    assert {alias: entry.id for alias, entry in catalogue.aliased().items()} == {"gpt-4o": "qwen3-4b"}
    catalogue.aliases = {"gpt-4o": "far"}
    assert catalogue.resolve("gpt-4o").id == "far", "the configuration has priority"
    catalogue.aliases = {"loop": "loop"}
    with pytest.raises(ModelNotFound):
        catalogue.resolve("loop")
    with pytest.raises(UsageError):
        add_alias(catalogue, "..", catalogue.get("far"))


def test_new_entry_shares_the_bytes_or_copies_them(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    base = catalogue.get("qwen3-4b")
    made = derive(catalogue, "mine", base, Recipe(system="Arr.", sampling=Sampling(top_k=3), context=512))
    assert made.path is not None and base.path is not None and made.path.samefile(base.path)
    assert (made.card.chat.system, made.card.sampling.top_k, made.context) == ("Arr.", 3, 512)
    assert made.family == base.family == "qwen3", "its own name tells nothing of the family"

    def no_links(*_arguments: object) -> NoReturn:
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    made = derive(catalogue, "other", base, Recipe(adapter="p_lora.rkllm"))
    assert made.path is not None and not made.path.samefile(base.path)
    assert made.path.read_bytes() == b"weights"
    assert made.card.options == {"lora": "p", "loras": {"p": "p_lora.rkllm"}}
    assert made.adapters == ("p",)


def test_entry_without_weights_has_cards_of_its_own_too(catalogue: Catalogue) -> None:
    far = catalogue.get("far")
    assert derive(catalogue, "near", far, Recipe(system="one")).engine == "openai"
    assert derive(catalogue, "near", far, Recipe(system="two")).card.chat.system == "two"
    with pytest.raises(ModelExists):
        derive(catalogue, "qwen3-4b", far, Recipe())
    with pytest.raises(ModelExists):
        derive(catalogue, "far", far, Recipe())


def test_modelfile_is_read_whole() -> None:
    text = (
        'FROM a\nTEMPLATE """x\ny"""\nADAPTER p\nPARAMETER stop "a"\nPARAMETER stop b\nPARAMETER num_ctx 9\nLICENSE z'
    )
    file = modelfile.parse(text)
    assert (file.weights, file.template, file.adapter, file.stop) == ("a", "x\ny", "p", ("a", "b"))
    assert (file.context, file.unused) == (9, ("LICENSE",))
