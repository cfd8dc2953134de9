"""Which ids end an answer: from the file's head, the tokenizer's files, and the padding behind a vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.runtime import ends
from exo_rkllm.runtime.ends import ends_beside, ids_beside

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


def test_padding_of_the_vocabulary_ends_an_answer(tmp_path: Path) -> None:
    """`[PAD151935]` without end: DeepSeek-R1-Distill-Qwen-1.5B on 1.2.3 (A)."""
    model = str(tmp_path / "m.rkllm")
    assert ends_beside(model, 151936) == ()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(QWEN))
    padded = (151645, *range(151665, 151936))
    assert ends_beside(model, 151936) == padded, "by the model file's own count"
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 151936}))
    assert ends_beside(model, 0) == padded


def test_a_vocabulary_without_its_last_ids_has_no_padding(tmp_path: Path) -> None:
    """Llama 2 lists its three special tokens, which come first."""
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 32000}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {"0": {}, "1": {}, "2": {}}}))
    assert ends_beside(str(tmp_path / "m.rkllm"), 0) == ()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json", "selftest.json"])
@pytest.mark.parametrize("content", ["[" * 200_000, '{"added_tokens": ' + "[" * 200_000, "", "{}" + " " * (9 << 20)])
def test_hostile_file_names_no_end_and_harms_nothing(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    (tmp_path / name).write_text(content)
    assert ends_beside(str(tmp_path / "m.rkllm"), 0) == ()


@pytest.mark.parametrize("end", ["</s>", "<｜end▁of▁sentence｜>", '"\\'])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_id_is_found_in_a_large_tokenizer_without_parsing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, ascii_only: bool
) -> None:
    """Seven megabytes took 0.8 s to parse, on the daemon's loop."""
    vocabulary = {**{f"{end}{number}": number for number in range(9)}, end: 70_000}
    whole = json.dumps({"version": "1.0", "added_tokens": [], "model": {"vocab": vocabulary}}, ensure_ascii=ascii_only)
    (tmp_path / "tokenizer.json").write_text(whole, encoding="utf-8")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": end}))
    monkeypatch.setattr(ends, "MOST_BYTES", 200)
    assert ids_beside(tmp_path) == (70_000,)
