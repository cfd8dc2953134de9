"""Importing from this machine: files, folders, and what rkllama left behind."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exo_rkllm.backends.base import Sampling
from exo_rkllm.catalogue import modelfile
from exo_rkllm.catalogue.hub import Access
from exo_rkllm.catalogue.importing import import_
from exo_rkllm.catalogue.modelfile import Modelfile
from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.errors import CardError, ModelExists, ModelFileError, ModelNotFound, PullError, UsageError
from tests.hub import LocalHub

RKLLAMA = """\
# made by rkllama
FROM="Qwen2.5-1.5B-rk3588-w8a8.rkllm"

HUGGINGFACE_PATH="Qwen/Qwen2.5-1.5B-Instruct"

SYSTEM="You are a \\"robot\\"."

TEMPERATURE=0.6
NUM_CTX=2048
IMAGE_WIDTH=448
"""
Make = Callable[..., Path]


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    return Catalogue(tmp_path / "catalogue")


@pytest.fixture
async def hub() -> AsyncIterator[LocalHub]:
    async with LocalHub() as server:
        server.add(
            "Qwen/Qwen2.5-1.5B-Instruct",
            {"tokenizer_config.json": b'{"chat_template": "theirs"}', "generation_config.json": b'{"top_k": 20}'},
        )
        yield server


async def imported(catalogue: Catalogue, path: Path, access: Access | None = None, **more: Any) -> list[PullProgress]:
    return [step async for step in import_(catalogue, path, access, **more)]


def rkllama(make_model: Make, root: Path, name: str, text: str = RKLLAMA) -> Path:
    """A folder as rkllama has them."""
    folder = root / name
    (folder / "cache").mkdir(parents=True)
    make_model(reply=name).rename(folder / "Qwen2.5-1.5B-rk3588-w8a8.rkllm")
    (folder / "Modelfile").write_text(text)
    return folder


async def test_import_links_the_file(make_model: Make, catalogue: Catalogue) -> None:
    file = make_model(reply="x").rename(make_model().parent / "Llama-3.2-1B-rk3588-w8a8.rkllm")
    steps = await imported(catalogue, file)
    entry = catalogue.get("llama-3.2-1b")
    assert steps[-1] == PullProgress(
        "done", "llama-3.2-1b is ready", str(file), hashlib.sha256(file.read_bytes()).hexdigest(),
        file.stat().st_size, file.stat().st_size, "llama-3.2-1b",
    )  # fmt: skip
    assert entry.path is not None
    assert entry.path.samefile(file)
    assert entry.card.weights is not None
    assert entry.card.weights.sha256 == steps[-1].sha256
    assert (entry.card.platform, entry.card.quantization, entry.card.name) == ("rk3588", "w8a8", "Llama 3.2 1B")
    assert entry.card.context > 0
    assert entry.card.layers > 0
    assert entry.card.runtime_floor
    assert "<|start_header_id|>" in entry.chat_format().template.text


async def test_import_copies_across_file_systems(
    make_model: Make, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_file_system(*_: object, **_named: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_file_system)
    file = make_model(reply="x")
    steps = await imported(catalogue, file, name="copy")
    path = catalogue.get("copy").path
    assert path is not None
    assert not path.samefile(file)
    assert path.read_bytes() == file.read_bytes()
    assert {step.stage for step in steps} == {"writing", "done"}
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(PullError, match=r"needs 0\.00 GB and .* has 0\.00 GB free"):
        await imported(catalogue, file, name="again")
    # Something else fills the disk while the copy is written.
    monkeypatch.setattr("exo_rkllm.catalogue.importing.BLOCK", 100)
    free = iter([10_000_000_000, 10_000_000_000])
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=next(free, 10)))
    with pytest.raises(PullError, match=r"needs 0\.00 GB and .* has 0\.00 GB free"):
        await imported(catalogue, file, name="again")
    assert [path.name for path in catalogue.directory.iterdir()] == ["copy"]


async def test_import_moves_the_file(make_model: Make, catalogue: Catalogue) -> None:
    file = make_model()
    await imported(catalogue, file, name="a")
    with pytest.raises(ModelExists):
        await imported(catalogue, file, name="a", move=True)
    assert file.exists()
    await imported(catalogue, file, name="b", move=True)
    assert not file.exists()
    assert [entry.id for entry in catalogue.list()] == ["a", "b"]


async def test_import_replaces_an_entry(make_model: Make, catalogue: Catalogue) -> None:
    await imported(catalogue, make_model(reply="old"), name="a")
    newer = make_model(reply="new")
    await imported(catalogue, newer, name="a", replace=True)
    path = catalogue.get("a").path
    assert path is not None
    assert path.samefile(newer)


async def test_import_takes_the_tokenizer_and_nothing_else(
    make_model: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    make_model().rename(folder / "tiny-w8a8.rkllm")
    for name, text in {
        "chat_template.jinja": "ours", "tokenizer_config.json": "{}", "modeling.py": "boom", "secret.txt": "s",
        "generation_config.json": " " * 300_000,
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    await imported(catalogue, folder)
    entry = catalogue.get("tiny")
    assert sorted(path.name for path in entry.folder.iterdir()) == [
        "chat_template.jinja", "model.toml", "tiny-w8a8.rkllm", "tokenizer_config.json",
    ]  # fmt: skip
    assert entry.chat_format().template.text == "ours"


async def test_import_reads_an_rkllama_folder(
    make_model: Make, catalogue: Catalogue, tmp_path: Path, hub: LocalHub
) -> None:
    folder = rkllama(make_model, tmp_path, "Qwen Robot")
    steps = await imported(catalogue, folder, Access(hub.endpoint))
    entry = catalogue.get("qwen-robot")
    card = entry.card
    assert (card.base_model, card.context) == ("Qwen/Qwen2.5-1.5B-Instruct", 2048)
    assert card.sampling == Sampling(temperature=0.6, top_k=20)
    assert card.chat.system == 'You are a \\"robot\\".'
    assert entry.chat_format().template.text == "theirs"
    assert "not taken over from the Modelfile: IMAGE_WIDTH" in [step.text for step in steps]
    assert (folder / "Modelfile").exists()


async def test_offline_import_makes_no_request(
    make_model: Make, catalogue: Catalogue, tmp_path: Path, hub: LocalHub
) -> None:
    await imported(catalogue, rkllama(make_model, tmp_path, "robot"))
    assert hub.asked == []
    assert "<|im_start|>" in catalogue.get("robot").chat_format().template.text


async def test_unavailable_base_model_is_noted(
    make_model: Make, catalogue: Catalogue, tmp_path: Path, hub: LocalHub
) -> None:
    hub.repos.clear()
    steps = await imported(catalogue, rkllama(make_model, tmp_path, "robot"), Access(hub.endpoint))
    assert any("template of its family is used" in step.text for step in steps)
    assert catalogue.get("robot")


async def test_models_folder_is_imported_as_far_as_possible(
    make_model: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    root = tmp_path / "models"
    rkllama(make_model, root, "one")
    rkllama(make_model, root, "two")
    wrong = rkllama(make_model, root, "wrong")
    (wrong / "Qwen2.5-1.5B-rk3588-w8a8.rkllm").write_bytes(b"<!DOCTYPE html>")
    (root / "empty").mkdir()
    steps = await imported(catalogue, root)
    assert [entry.id for entry in catalogue.list()] == ["one", "two"]
    assert any("is a web page" in step.text for step in steps if step.stage == "note")
    with pytest.raises(ModelExists):
        await imported(catalogue, root / "one")
    with pytest.raises(ModelExists):
        await imported(catalogue, root)
    with pytest.raises(UsageError, match="has 3 models, which cannot all be named 'x'"):
        await imported(catalogue, root, name="x")


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (lambda root: root / "gone", ModelNotFound, "There is no"),
        (lambda root: root, ModelNotFound, r"has no \.rkllm file, nor has a folder in it"),
        (lambda root: _file(root / "a.rkllm", b"GGUF1234"), ModelFileError, "is a GGUF file"),
        (lambda root: _file(root / "a.rkllm", b"version https://git-lfs"), ModelFileError, "Git LFS pointer"),
        (lambda root: _file(root / "a.txt", b"hello"), ModelFileError, r"is no \.rkllm file"),
        (lambda root: _file(root / "a.rkllm", b"").parent / "a.rkllm", ModelFileError, "is empty"),
        (
            lambda root: _file(_file(root / "a.rkllm", b"").with_name("b.rkllm"), b"").parent,
            UsageError,
            "several model",
        ),
        (
            lambda root: _file(_file(root / "a.rkllm", b"").with_name("Modelfile"), b"FROM ../../b.rkllm").parent,
            ModelNotFound,
            "names '../../b.rkllm', which is not there",
        ),
        (
            lambda root: _file(_file(root / "a.rkllm", b"").with_name("Modelfile"), b"TEMPERATURE=hot").parent,
            CardError,
            "TEMPERATURE must be a number, not 'hot'",
        ),
        (
            lambda root: _file(_file(root / "a.rkllm", b"").with_name("Modelfile"), b"#" * 70_000).parent,
            CardError,
            "has more than 64 KiB",
        ),
    ],
)
async def test_failed_import_is_explained_and_leaves_nothing(
    make: Callable[[Path], Path], kind: type[Exception], says: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(kind, match=says):
        await imported(catalogue, make(tmp_path / "in"))
    assert not catalogue.directory.exists() or list(catalogue.directory.iterdir()) == []


def _file(path: Path, text: bytes) -> Path:
    path.write_bytes(text)
    return path


async def test_import_refuses_an_invalid_name(make_model: Make, catalogue: Catalogue) -> None:
    with pytest.raises(UsageError, match="cannot be a model's name"):
        await imported(catalogue, make_model(), name="../x")


async def test_unusable_file_name_is_replaced(make_model: Make, catalogue: Catalogue, tmp_path: Path) -> None:
    file = make_model().rename(tmp_path / "a:b*?.rkllm")
    await imported(catalogue, file)
    [entry] = catalogue.list()
    assert (entry.id, entry.path) == ("a-b", entry.folder / "model.rkllm")


def test_modelfile_is_read_in_either_notation() -> None:
    assert modelfile.parse(RKLLAMA).weights == "Qwen2.5-1.5B-rk3588-w8a8.rkllm"
    text = (
        '# x\nFROM a.rkllm\nPARAMETER temperature 0.5\nPARAMETER top_k 3\nSYSTEM """Be\nkind."""\nTEMPLATE "x"\n\n=\n'
    )
    assert modelfile.parse(text) == Modelfile(
        "a.rkllm", "", "Be\nkind.", 0, Sampling(temperature=0.5, top_k=3), template="x"
    )
    assert modelfile.parse("SYSTEM='x'\nSEED=\nNUM_CTX=-1") == Modelfile(system="x")
    assert modelfile.parse('SYSTEM """never ends\nx').system == "never ends\nx"


async def test_published_sampling_that_the_engine_refuses_is_left_out(
    make_model: Make, catalogue: Catalogue, tmp_path: Path
) -> None:
    folder = tmp_path / "lfm"
    folder.mkdir()
    make_model().rename(folder / "lfm.rkllm")
    config = {"temperature": 0.3, "min_p": 0.15, "top_k": 0, "repetition_penalty": 1.05, "top_p": 7}
    (folder / "generation_config.json").write_text(json.dumps(config))
    await imported(catalogue, folder)
    assert catalogue.get("lfm").sampling == Sampling(temperature=0.3, repeat_penalty=1.05)
