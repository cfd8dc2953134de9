"""What classic exo does with a model's folder, by the real `tokenizers` and `transformers`, whatever the folder lacks.

They are no dependency of ours: install them into the Python of the tests to see these run.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.assembly import NO_PLUGINS, open_node
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.classic import hooks
from exo_rkllm.classic.token_ids import NO_ID, token_ids_of
from exo_rkllm.config import load

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

WORDS = {"<unk>": 0, "hello": 1, "world": 2, "user": 3, "assistant": 4}
START, END = len(WORDS), len(WORDS) + 1  # <|im_start|>, <|im_end|>
CLASS = {"tokenizer_class": "PreTrainedTokenizerFast"}
EOS = {"eos_token": "<|im_end|>"}
TEMPLATE = {"chat_template": "{% for message in messages %}{{ message.content }} {% endfor %}"}


def save_tokenizer(folder: Path) -> None:
    one = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token=next(iter(WORDS))))
    one.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    marks = [tokenizers.AddedToken(mark, special=True) for mark in ("<|im_start|>", "<|im_end|>")]
    one.add_special_tokens(marks)
    one.save(str(folder / "tokenizer.json"))


FOLDERS: dict[str, dict[str, Any]] = {
    "tokenizer.json and tokenizer_config.json": {"tokenizer_config.json": {**CLASS, **EOS, **TEMPLATE}},
    "no template": {"tokenizer_config.json": {**CLASS, **EOS}},
    "no class": {"tokenizer_config.json": {**EOS, **TEMPLATE}},
    "no end in the configuration": {"tokenizer_config.json": {**CLASS, **TEMPLATE}},
    "the end in special_tokens_map.json": {"tokenizer_config.json": CLASS, "special_tokens_map.json": EOS},
    "the end in generation_config.json": {
        "tokenizer_config.json": CLASS,
        "generation_config.json": {"eos_token_id": [END, START]},
    },
    "tokenizer.json alone": {},
    "an end that differs from the configuration's": {
        "tokenizer_config.json": {**CLASS, **EOS, **TEMPLATE},
        "config.json": {"eos_token_id": 0},
    },
}


@pytest.fixture
def entry(request: pytest.FixtureRequest, tmp_path: Path, make_model: Callable[..., Path]) -> Entry:
    folder = tmp_path / "models" / "qwen"
    folder.mkdir(parents=True)
    make_model().rename(folder / "m.rkllm")
    card = 'id = "qwen"\nbase_model = "Qwen/Qwen2.5-0.5B-Instruct"\n[weights]\nfile = "m.rkllm"\n'
    (folder / "model.toml").write_text(card)
    save_tokenizer(folder)
    for name, content in FOLDERS[request.param].items():
        (folder / name).write_text(json.dumps(content))
    variables = {"HOME": str(tmp_path), "EXO_RKLLM_MODELS_DIRECTORY": str(tmp_path / "models")}
    return open_node(load(variables), NO_PLUGINS).catalogue.get("qwen")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, entry: Entry) -> Any:
    """exo's module of tokenizers: it asks transformers, and so do we."""

    async def resolve(place: Any) -> Any:
        return transformers.AutoTokenizer.from_pretrained(str(place), trust_remote_code=True)

    module = types.ModuleType("exo.inference.tokenizers")
    module._resolve_tokenizer = resolve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "exo.inference.tokenizers", module)
    assert hooks.fit_tokenizers(lambda: (entry,))
    return module


@pytest.mark.parametrize("entry", FOLDERS, indirect=True)
async def test_chat_of_a_folder_that_lacks_a_file_is_answered(entry: Entry, host: Any) -> None:
    """Each without an end in its configuration ended in HTTP 500: the host was given -1 to decode."""
    tokenizer = await host._resolve_tokenizer(str(entry.folder.absolute()))
    messages = [{"role": "user", "content": "hello world"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert "hello world" in prompt
    words = token_ids_of(entry)
    assert words.eos_token_id == END
    assert words.eos_token_id == tokenizer.eos_token_id, "or the host does not see the end"
    assert words.encode("hello world") == [1, 2]
    for last in (words.eos_token_id, NO_ID):
        assert tokenizer.decode([1, 2, last]) == "hello world"
    assert tokenizer.decode(1) == "hello"


@pytest.mark.parametrize("entry", ["tokenizer.json and tokenizer_config.json"], indirect=True)
async def test_tokenizer_of_another_folder_is_left_as_it_is(entry: Entry, host: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_tokenizer(other)
    (other / "tokenizer_config.json").write_text(json.dumps({**CLASS, **EOS}))
    theirs = await host._resolve_tokenizer(str(other))
    assert theirs.decode([1, END]) == "hello <|im_end|>"
    with pytest.raises(Exception, match=r"nowhere|not a local folder|Repo id|Unrecognized"):
        await host._resolve_tokenizer(str(tmp_path / "nowhere"))
