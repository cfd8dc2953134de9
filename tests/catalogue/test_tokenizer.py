"""Token ids of texts and back, by the tokenizer of a model's folder and the real package that reads it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from exo_rkllm.catalogue import model_tokenizers
from exo_rkllm.catalogue.card import Card
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.catalogue.model_tokenizers import ModelTokenizers
from exo_rkllm.catalogue.tokenizer import read_tokenizer
from exo_rkllm.errors import CardError, UsageError
from tests.words import write_tokenizer


def test_tokenizer_needs_the_package_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_tokenizer(tmp_path) is None
    write_tokenizer(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert read_tokenizer(tmp_path) is None


def test_tokenizer_encodes_and_decodes(tmp_path: Path) -> None:
    file = write_tokenizer(tmp_path, "né", " à", " la")
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer is not None
    assert tokenizer.encode("né à la") == [0, 1, 2]
    assert tokenizer.decode([0, 2, 1]) == "né la à"
    file.write_text("[")
    assert read_tokenizer(tmp_path) is None


async def test_tokens_are_counted_in_a_process_that_can_be_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizers, entry = ModelTokenizers(), Entry(tmp_path, Card("one"))
    assert await tokenizers.count(entry, ["née"]) is None
    assert tokenizers.helper.pid is None, "there is no file"
    file = write_tokenizer(tmp_path, "né", " à")
    assert await tokenizers.count(entry, ["né à né", "né"]) == [3, 1]
    file.write_text("[")
    assert await tokenizers.count(entry, ["né"]) is None
    write_tokenizer(tmp_path, "né", " à")
    assert await tokenizers.encode(entry, ["né à"]) == [[0, 1]]
    assert await tokenizers.decode(entry, [[0], [1]]) == ["né", " à"]
    with monkeypatch.context() as patch:
        patch.setattr("exo_rkllm.helper.parent.LARGEST_ANSWER", 100)
        with pytest.raises(UsageError, match="more tokens than one answer holds"):
            await tokenizers.encode(entry, ["né" + " à" * 100])
    pid = tokenizers.helper.pid
    monkeypatch.setattr(model_tokenizers, "SECONDS", 0.001)
    with pytest.raises(CardError, match=r"^The tokenizer of one was stopped: it took longer than 0\.001 s\."):
        await tokenizers.count(entry, ["né" * 100_000])
    assert tokenizers.helper.pid != pid
    monkeypatch.setattr(model_tokenizers, "SECONDS", 20.0)
    monkeypatch.setattr(model_tokenizers, "IDLE_SECONDS", 0.0)
    assert await tokenizers.count(entry, ["né"]) == [1]
    await asyncio.sleep(0.1)
    assert tokenizers.helper.pid is None, "nobody counts any more"
    tokenizers.close()
