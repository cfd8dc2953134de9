"""What classic exo gets: cards and names of the same models, light to import and never an error."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.catalogue.card import Card, Weights
from exo_rkllm.catalogue.store import Catalogue


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    monkeypatch.setenv("EXO_RKLLM_MODELS_DIRECTORY", str(tmp_path / "models"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return Catalogue(tmp_path / "models")


def put(catalogue: Catalogue, card: Card, files: tuple[str, ...] = ()) -> None:
    with catalogue.stage() as stage:
        for name in ("w.rkllm", *files):
            (stage / name).write_text("{}")
        catalogue.publish(stage, card)


def classic(name: str) -> dict[str, Any]:
    found = getattr(importlib.import_module("exo_rkllm.models"), name)
    assert isinstance(found, dict)
    return found


@pytest.mark.seed("4.1", "get_model_cards() includes plugins")
@pytest.mark.seed("4.2", "model format")
def test_cards_have_what_hosts_read(catalogue: Catalogue, tmp_path: Path) -> None:
    """A model whose tokenizer is nowhere on this machine is not among them: a host would answer it with HTTP 500."""
    (tmp_path / ".cache/exo/downloads/Qwen--Q").mkdir(parents=True)
    put(catalogue, Card("lost", base_model="Qwen/Elsewhere", weights=Weights("w.rkllm")), ("tokenizer_config.json",))
    put(
        catalogue,
        Card("qwen", name="Qwen", base_model="Qwen/Q", layers=28, context=4096, weights=Weights("w.rkllm")),
        ("tokenizer_config.json", "tokenizer.json"),
    )
    put(catalogue, Card("bare", base_model="Qwen/Q", weights=Weights("w.rkllm")))
    put(catalogue, Card("own-rkllm", weights=Weights("w.rkllm")), ("tokenizer.model",))
    models = classic("RKLLM_MODELS")
    assert list(models) == ["bare-rkllm", "own-rkllm", "qwen-rkllm"]
    assert models["qwen-rkllm"] == {
        "layers": 28,
        "repo": {"RKLLMInferenceEngine": str(catalogue.directory / "qwen")},
        "rkllm_entry": "qwen",
        "rkllm_file": str(catalogue.directory / "qwen" / "w.rkllm"),
        "rkllm_context": 4096,
        "rkllm_engine": "rkllm",
    }
    assert (models["bare-rkllm"]["layers"], models["bare-rkllm"]["repo"]) == (1, {"RKLLMInferenceEngine": "Qwen/Q"})
    assert models["own-rkllm"]["repo"] == {"RKLLMInferenceEngine": str(catalogue.directory / "own-rkllm")}
    assert classic("RKLLM_PRETTY_NAMES") == {
        "bare-rkllm": "bare (NPU)",
        "own-rkllm": "own-rkllm (NPU)",
        "qwen-rkllm": "Qwen (NPU)",
    }


def test_whatever_is_wrong_is_an_empty_mapping(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert classic("RKLLM_MODELS") == {}
    catalogue.directory.write_text("")
    assert classic("RKLLM_MODELS") == {}
    (tmp_path / "c.toml").write_text("nonsense = 1")
    monkeypatch.setenv("EXO_RKLLM_CONFIG", str(tmp_path / "c.toml"))
    assert classic("RKLLM_PRETTY_NAMES") == {}


def test_there_is_nothing_else(make_model: Callable[..., Path]) -> None:
    with pytest.raises(AttributeError, match="MY_PRETTY_NAMES"):
        classic("MY_PRETTY_NAMES")
