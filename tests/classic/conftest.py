"""A host process: a models folder, a simulated board, and engines that are closed again."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from exo_rkllm.engine import RKLLMInferenceEngine
from simulator import tokenizer
from tests.simulated import Library

# The optional package, with the simulated models' vocabulary in it.
TOKENIZERS = """
from simulator import tokenizer

class _Encoding:
    def __init__(self, ids): self.ids = ids

class Tokenizer:
    @classmethod
    def from_file(cls, path): return cls()
    def encode(self, text, add_special_tokens=True): return _Encoding(tokenizer.encode(text))
    def decode(self, ids, skip_special_tokens=True): return tokenizer.decode(ids)
"""


class Downloader:
    """As the fork and v0.0.15 have it, two arguments; whatever it is asked for is written down."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def ensure_shard(self, shard: Any, inference_engine_name: str) -> Path:
        self.asked.append((shard.model_id, inference_engine_name))
        return Path("/from/the/internet")


class OneArgument:
    """As the guide for plugin authors mocks it."""

    async def ensure_shard(self, shard: Any) -> Path:
        return Path("/mock")


class Singleton:
    """The host's outermost, which keeps one inside."""

    def __init__(self, inner: Any) -> None:
        self.shard_downloader = inner


@pytest.fixture
def add(
    tmp_path: Path, make_model: Callable[..., Path], board_root: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """`add("parrot", reply="{user}")` puts a simulated model into the folder that this process is configured for."""
    settings = {
        "EXO_RKLLM_CONFIG": tmp_path / "config.toml",
        "EXO_RKLLM_MODELS_DIRECTORY": tmp_path / "models",
        "EXO_RKLLM_BOARD_ROOT": board_root,
        "EXO_RKLLM_RUNTIME_LIBRARY": library("1.3.0"),
        "XDG_RUNTIME_DIR": tmp_path,
    }
    (tmp_path / "config.toml").write_text("")
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/tokenizers.py").write_text(TOKENIZERS)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.delitem(sys.modules, "tokenizers", raising=False)

    def one(name: str, *, card: str = "", **situation: Any) -> str:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        make_model(template="none", **situation).rename(folder / "m.rkllm")
        held = f'id = "{name}"\nlayers = 28\ncontext = 4096\n[weights]\nfile = "m.rkllm"\n{card}'
        (folder / "model.toml").write_text(held)
        (folder / "chat.jinja").write_text(TEMPLATE)
        (folder / "tokenizer.json").write_text("{}")
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": END}))
        return f"{name}-rkllm"

    return one


# Of a card that names it; the engine of classic exo gets prompts that are rendered already.
TEMPLATE = "{% for one in messages %}{{ one.content }}\n{% endfor %}"
END = tokenizer.token("<|endoftext|>")


@pytest_asyncio.fixture
async def make_engine() -> AsyncIterator[Callable[[], RKLLMInferenceEngine]]:
    made: list[RKLLMInferenceEngine] = []

    def make(downloader: Any = None) -> RKLLMInferenceEngine:
        made.append(RKLLMInferenceEngine(Downloader() if downloader is None else downloader))
        return made[-1]

    yield make
    for engine in made:
        await engine.close()
