"""Ids for hosts that want them, where the optional package is; a stand-in for it is put on the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from exo_rkllm.catalogue.tokenizer import read_tokenizer

PACKAGE = """
class _Encoding:
    def __init__(self, ids): self.ids = ids

class Tokenizer:
    @classmethod
    def from_file(cls, path):
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
