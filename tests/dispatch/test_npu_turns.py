"""One NPU, several programs: whatever computes on it takes turns, whichever engine or program it belongs to."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.assembly import NO_PLUGINS, Node, open_node
from exo_rkllm.backends.base import GenerationRequest, Model
from exo_rkllm.backends.registry import EngineRegistry
from exo_rkllm.catalogue.card import Card, Weights
from exo_rkllm.catalogue.store import Entry
from exo_rkllm.config import load
from exo_rkllm.dispatch.state import DispatchLimits
from tests.dispatch.puppet import Puppet, Stage

RKLLM = '[weights]\nfile = "m.rkllm"\n'
LLAMA = 'engine = "llamacpp"\n[weights]\nfile = "m.gguf"\n[options]\n'
GB = 1_000_000_000


def card(**options: Any) -> Entry:
    return Entry(Path("/nowhere"), Card("m", engine="llamacpp", weights=Weights("m.gguf"), options=options))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return open_node(load({"HOME": str(tmp_path)}), NO_PLUGINS, models=tmp_path)


def add(node: Node, name: str, text: str) -> None:
    folder = node.catalogue.directory / name
    folder.mkdir()
    (folder / "model.toml").write_text(f'id = "{name}"\ncontext = 512\n{text}')
    (folder / ("m.gguf" if "llamacpp" in text else "m.rkllm")).write_bytes(bytes(5000))


async def most_at_a_time(node: Node, monkeypatch: pytest.MonkeyPatch) -> int:
    """Six questions to two models at once, on the node's own dispatcher; only the engines are puppets."""
    stage = Stage(pace=0.005)
    monkeypatch.setattr(EngineRegistry, "make", lambda _self, model, _host: Puppet(model, stage))
    dispatcher = node.dispatcher(DispatchLimits(reserve=0), available=lambda: 64 * GB)

    await asyncio.gather(dispatcher.load("npu"), dispatcher.load("llama"))  # idle beside each other is harmless

    async def ask(model: str) -> None:
        async for _ in dispatcher.generate(GenerationRequest(model=model, prompt="one two three four")):
            pass

    await asyncio.gather(*(ask(name) for name in ("npu", "llama") * 3))
    await dispatcher.drain(1.0)
    return stage.most_on_hardware


@pytest.mark.parametrize("options", ['arguments = ["--device", "RKNPU"]', "npu = true"])
async def test_llama_cpp_on_the_npu_takes_turns_with_rkllm(
    node: Node, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    """Two programs that compute there at once freeze the whole board (board-facts 5, certainty A)."""
    add(node, "npu", RKLLM)
    add(node, "llama", LLAMA + options)
    assert await most_at_a_time(node, monkeypatch) == 1


async def test_llama_cpp_on_the_cpu_answers_beside_the_npu(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    add(node, "npu", RKLLM)
    add(node, "llama", LLAMA + "threads = 1")
    assert await most_at_a_time(node, monkeypatch) == 2


@pytest.mark.parametrize(
    ("options", "on_npu"),
    [
        ({}, False),
        ({"arguments": ["--device", "RKNPU"]}, True),
        ({"arguments": ["-dev", "rknpu0,CPU"]}, True),
        ({"arguments": ["--device=RKNPU"]}, True),
        ({"arguments": ["--device", "Vulkan0"]}, False),
        ({"arguments": ["--alias", "RKNPU"]}, False),
        ({"arguments": ["--device"]}, False),
        ({"npu": True}, True),
        ({"npu": False, "arguments": ["--device", "RKNPU"]}, False),
    ],
)
def test_card_says_whether_llama_cpp_uses_the_npu(options: dict[str, Any], on_npu: bool) -> None:
    assert EngineRegistry().uses_npu(card(**options)) is on_npu


def test_engine_in_place_of_the_cards_decides(tmp_path: Path) -> None:
    model: Model = card(npu=True)
    assert not EngineRegistry(instead="dummy").uses_npu(model)
