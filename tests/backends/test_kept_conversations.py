"""One engine with somewhere to keep conversations: what becomes of each, by the tokens that are computed for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.backends.base import JSON, Finish, GenerationRequest, Piece, Usage
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.prefix_plan import PrefixCosts
from exo_rkllm.backends.prefix_store import PrefixStore, PrefixTier
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.runtime.locate import only
from tests.backends.npu_fixtures import Card
from tests.simulated import Library

A, B = (" ".join(f"{name}{number}" for number in range(40)) for name in "ab")


class Slow(PrefixStore):
    """On a machine that takes a second a token, so that all is worth keeping."""

    def costs(self, key: str) -> PrefixCosts:
        return replace(super().costs(key), prefill=1.0)


class Keeper:
    def __init__(self, engine: RkllmEngine, store: PrefixStore) -> None:
        self.engine = engine
        self.store = store

    async def ask(self, prompt: str, **more: Any) -> tuple[str, Usage]:
        events = [event async for event in self.engine.generate(GenerationRequest(prompt=prompt, **more))]
        finish = events[-1]
        assert isinstance(finish, Finish)
        return "".join(event.text for event in events if isinstance(event, Piece)), finish.usage

    async def computed(self, prompt: str, **more: Any) -> int:
        _, usage = await self.ask(prompt, **more)
        return usage.prompt - usage.cached

    async def leave(self, prompt: str, *, settle: bool = True) -> None:
        request = GenerationRequest(prompt=prompt)
        async with aclosing(self.engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, Piece):
                    break
        if settle:
            await self.engine.settled(request.id)

    @property
    def saved(self) -> int:
        return self.store.tally("model-0").saved

    @property
    def restored(self) -> int:
        return self.store.tally("model-0").restored


@pytest.fixture
def keeping(library: Library, board_root: Path, tmp_path: Path) -> Callable[..., Any]:
    """`async with keeping(model, options, "1.3.1") as keeper`."""

    @asynccontextmanager
    async def keep(
        model: Path, options: Mapping[str, JSON] | None = None, version: str = "1.3.1", **fields: Any
    ) -> AsyncIterator[Keeper]:
        store = Slow([PrefixTier("memory", tmp_path / "kept", 1 << 30)], lambda: 1 << 40)
        host = EngineHost(lambda _: None, only(library(version)), prefixes=store)
        engine = RkllmEngine(Card(model, options or {}, **fields), host)
        await engine.initialize()
        try:
            yield Keeper(engine, store)
        finally:
            await engine.close()
            await store.settled()

    return keep


async def test_displaced_conversation_comes_back(keeping: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    async with keeping(make_model(reply="{cache}", template="none")) as keeper:
        first, usage = await keeper.ask(A)
        await keeper.computed(B)
        again, _ = await keeper.ask(A)
        assert again == first
        assert keeper.restored == 1
        assert await keeper.computed(A + first + " and then?") < 10
        assert await keeper.computed(B) < 10 < usage.prompt
        assert keeper.restored == 2


@pytest.mark.parametrize("fields", [{"reuse": False}, {"options": {"runtime_template": True}}])
async def test_model_that_reuses_nothing_keeps_nothing(
    keeping: Callable[..., Any], make_model: Callable[..., Path], fields: dict[str, Any]
) -> None:
    options = fields.pop("options", {})
    async with keeping(make_model(template="none"), options, **fields) as keeper:
        for prompt in (A, B, A):
            await keeper.ask(prompt) if not options else None
        assert keeper.saved == 0


async def test_values_of_one_adapter_serve_no_other(
    keeping: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    loras: dict[str, JSON] = {
        name: make_model(file=f"{name}_lora.rkllm", reply=f"{name} {{cache}}").name for name in ("one", "two")
    }
    async with keeping(make_model(file="model-0.rkllm", reply="{cache}", template="none"), {"loras": loras}) as keeper:
        said = {lora: (await keeper.ask(A, lora=lora))[0] for lora in ("", "one", "two")}
        assert len({text.split(":")[-1] for text in said.values()}) == 3
        for lora in ("two", "", "one", "two"):
            answer, usage = await keeper.ask(A, lora=lora)
            assert answer == said[lora]
            assert usage.prompt - usage.cached < 10
        assert keeper.restored == 3, "the first of these was hot"


async def test_file_that_vanished_costs_a_prefill_and_nothing_else(
    keeping: Callable[..., Any], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    async with keeping(make_model(reply="{cache}", template="none")) as keeper:
        first, usage = await keeper.ask(A)
        await keeper.ask(B)
        for file in (tmp_path / "kept").iterdir():
            file.unlink()
        answer, again = await keeper.ask(A)
        assert (answer, again.prompt - again.cached) == (first, usage.prompt)
        assert keeper.restored == 0


async def test_left_answer_is_kept_and_restored_in_a_new_process(
    keeping: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    async with keeping(make_model(reply="{cache} " + "on " * 99, template="none", decode_tps=500)) as keeper:
        first, _ = await keeper.ask(A)
        await keeper.ask(B)
        process = keeper.engine.pid
        await keeper.leave(A)
        await keeper.leave(B, settle=False)
        answer, usage = await keeper.ask(A)
        assert answer == first
        assert usage.prompt - usage.cached < 10
        assert keeper.engine.pid != process


async def test_selftest_spares_the_new_process(keeping: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    model = make_model(reply="{cache} " + "on " * 99, template="none", decode_tps=500)
    notes = '{"model-0.rkllm": {"runtime": "1.3.1", "prompt_cache_spares": %s, "prompt_cache_after_abort": true}}'
    for spares in ("true", "false"):
        model.with_name("selftest.json").write_text(notes % spares)
        async with keeping(model) as keeper:
            process = keeper.engine.pid
            await keeper.ask(A)
            await keeper.ask(B)
            await keeper.leave(B)
            computed = await keeper.computed(A)
            assert (computed < 10) is (spares == "true")
            assert keeper.engine.pid == process


async def test_library_that_saves_nothing_is_asked_three_times(
    keeping: Callable[..., Any], make_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    async with keeping(make_model(architecture="qwen35", saves_hybrid=False, template="none")) as keeper:
        for number in range(6):
            await keeper.ask((A, B)[number % 2])
        assert "The runtime saved no conversation of model-0." in caplog.text
        assert keeper.saved == 0


async def test_library_that_reuses_no_file_is_asked_three_times(
    keeping: Callable[..., Any],
    make_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("exo_rkllm.backends.rkllm_prefixes.LEAST_SHARE", 9.0)
    async with keeping(make_model(template="none")) as keeper:
        for number in range(8):
            await keeper.ask((A, B)[number % 2])
        assert "A restored conversation of model-0 was computed again all the same." in caplog.text


async def test_vectors_displace_nothing_for_ever(keeping: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    async with keeping(make_model(reply="{cache}", template="none")) as keeper:
        first, _ = await keeper.ask(A)
        async for _ in keeper.engine.generate(GenerationRequest(prompt=B, output="hidden")):
            pass
        answer, usage = await keeper.ask(A)
        assert answer == first
        assert usage.prompt - usage.cached < 10


async def test_end_of_a_model_saves_its_conversation(
    keeping: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    model = make_model(reply="{cache}", template="none")
    async with keeping(model) as keeper:
        first, _ = await keeper.ask(A)
    async with keeping(model) as keeper:
        answer, usage = await keeper.ask(A)
        assert (answer, keeper.restored) == (first, 1)
        assert usage.prompt - usage.cached < 10


async def test_client_that_leaves_during_the_stash_poisons_nothing(
    keeping: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    async with keeping(make_model(reply="{cache}", template="none", prefill_base_ms=80)) as keeper:
        await keeper.ask(A)
        process = keeper.engine.pid
        asking = asyncio.ensure_future(keeper.ask(B))
        await asyncio.sleep(0.03)
        asking.cancel()
        await asyncio.wait({asking})
        await keeper.ask(B)
        assert await keeper.computed(A) < 10
        assert keeper.engine.pid == process
