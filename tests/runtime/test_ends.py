"""Which ids end an answer: from the file's head, the tokenizer's files, and the padding behind a vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.runtime import modelfile
from exo_rkllm.runtime.ends import end_tokens, ids_beside
from simulator import tokenizer

QWEN = {"eos_token": "<|im_end|>", "added_tokens_decoder": {"151645": {"content": "<|im_end|>"}, "151664": {}}}


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({}, ()),
        ({"generation_config.json": {"eos_token_id": [151645, 151643]}}, (151645, 151643)),
        ({"config.json": {"eos_token_id": 2}, "generation_config.json": {"eos_token_id": [7, 2]}}, (7, 2)),
        ({"config.json": {"text_config": {"eos_token_id": 106}}}, (106,)),
        ({"config.json": {"eos_token_id": None}, "tokenizer_config.json": QWEN}, (151645,)),
        ({"tokenizer_config.json": {"eos_token": {"content": "</s>"}, "added_tokens_decoder": {"2": "</s>"}}}, (2,)),
        (
            {
                "tokenizer_config.json": {"eos_token": "<|im_end|>"},
                "tokenizer.json": {"added_tokens": [{"id": 9, "content": "<|im_end|>"}], "model": {"vocab": {"a": 1}}},
            },
            (9,),
        ),
        ({"special_tokens_map.json": {"eos_token": "</s>"}, "tokenizer.json": {"model": {"vocab": {"</s>": 2}}}}, (2,)),
        ({"tokenizer_config.json": {"eos_token": "</s>"}, "tokenizer.json": {"model": {"vocab": [["a", 0]]}}}, ()),
        (
            {"tokenizer_config.json": {"eos_token": "</s>"}, "tokenizer.json": {"added_tokens": [1, {}, {"id": "x"}]}},
            (),
        ),
        ({"config.json": [], "generation_config.json": {"eos_token_id": "2"}, "tokenizer_config.json": "x"}, ()),
    ],
)
def test_ids_come_from_the_tokenizers_files(files: dict[str, Any], ids: tuple[int, ...], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert ids_beside(tmp_path) == ids


def test_padding_of_the_vocabulary_ends_an_answer(make_model: Callable[..., Path], tmp_path: Path) -> None:
    """`[PAD151935]` without end: DeepSeek-R1-Distill-Qwen-1.5B on 1.2.3 (A)."""
    facts = modelfile.inspect(make_model())
    assert end_tokens(facts, tmp_path) == (tokenizer.token("<|im_end|>"),)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 151936}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(QWEN))
    ids = end_tokens(facts, tmp_path)
    assert ids[1] == 151645
    assert ids[2:] == tuple(range(151665, 151936))


def test_a_vocabulary_without_its_last_ids_has_no_padding(make_model: Callable[..., Path], tmp_path: Path) -> None:
    """Llama 2 lists its three special tokens, which come first."""
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 32000}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {"0": {}, "1": {}, "2": {}}}))
    assert len(end_tokens(modelfile.inspect(make_model()), tmp_path)) == 1
