"""Ids for hosts that want them, where the optional package is; a stand-in for it is put on the path."""

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
from exo_rkllm.errors import CardError

PACKAGE = """
class _Encoding:
    def __init__(self, ids): self.ids = ids

class Tokenizer:
    @classmethod
    def from_file(cls, path):
        if open(path).read() == "spin":
            while True: pass
        if open(path).read() != "{}":
            raise Exception("not a tokenizer")
        return cls()
    def encode(self, text, add_special_tokens=True):
        assert not add_special_tokens
        return _Encoding([ord(sign) for sign in text])
    def decode(self, ids, skip_special_tokens=True):
        assert not skip_special_tokens
        return "".join(map(chr, ids))
"""


def test_tokenizer_needs_the_package_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert read_tokenizer(tmp_path) is None


def test_tokenizer_encodes_and_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "tokenizers.py").write_text(PACKAGE)
    monkeypatch.delitem(sys.modules, "tokenizers", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    (tmp_path / "tokenizer.json").write_text("{}")
    tokenizer = read_tokenizer(tmp_path)
    del sys.modules["tokenizers"]  # not by monkeypatch, which would put this one back at the end
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer.encode("né")) == "né"
    (tmp_path / "tokenizer.json").write_text("[")
    assert read_tokenizer(tmp_path) is None
    del sys.modules["tokenizers"]  # not by monkeypatch, which would put this one back at the end


async def test_tokens_are_counted_in_a_process_that_can_be_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizers, entry = ModelTokenizers(), Entry(tmp_path, Card("one"))
    assert await tokenizers.count(entry, ["née"]) is None
    assert tokenizers.helper.pid is None, "there is no file"
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "tokenizers.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    file = tmp_path / "tokenizer.json"
    for text, count in (("{}", [3]), ("[", None), ("{}", [3])):
        file.write_text(text)
        assert await tokenizers.count(entry, ["née"]) == count
    assert await tokenizers.encode(entry, ["né"]) == [[110, 233]]
    assert await tokenizers.decode(entry, [[110], [233]]) == ["n", "é"]
    assert "tokenizers" not in sys.modules, "the daemon does not load it"
    pid = tokenizers.helper.pid
    monkeypatch.setattr(model_tokenizers, "SECONDS", 0.3)
    file.write_text("spin")
    with pytest.raises(CardError, match=r"^The tokenizer of one was stopped: it took longer than 0\.3 s\."):
        await tokenizers.count(entry, ["née"])
    assert tokenizers.helper.pid != pid
    monkeypatch.setattr(model_tokenizers, "SECONDS", 20.0)
    monkeypatch.setattr(model_tokenizers, "IDLE_SECONDS", 0.0)
    file.write_text("{}")
    assert await tokenizers.count(entry, ["née"]) == [3]
    await asyncio.sleep(0.1)
    assert tokenizers.helper.pid is None, "nobody counts any more"
    tokenizers.close()
