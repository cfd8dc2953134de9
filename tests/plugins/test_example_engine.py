"""The example's engine keeps the promises of the seam: authors copy it."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from exo_rkllm.backends.base import Engine, Finish, GenerationRequest, Piece
from exo_rkllm.backends.dummy import DummyModel
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.registry import EngineSpec
from exo_rkllm.errors import ContextOverflow, ModelFileError, NotSupported, RunnerLost, UsageError
from tests.daemon.running import REPOSITORY

HOST = EngineHost(lambda _lines: None)
PROMPT = "<|user|>one two three<|squawk|><|assistant|>"


class File(DummyModel):
    def __init__(self, path: Path, **more: object) -> None:
        super().__init__("polly", **more)  # type: ignore[arg-type]
        self._path = path

    @property
    def path(self) -> Path:
        return self._path


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineSpec]:
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs/examples/exo-rkllm-parrot"))
    yield importlib.import_module("exo_rkllm_parrot.engine").SPEC
    for name in [name for name in sys.modules if name.startswith("exo_rkllm_parrot")]:
        del sys.modules[name]


@pytest.fixture
def polly(tmp_path: Path) -> Path:
    (tmp_path / "m.parrot").write_text("Polly")
    return tmp_path / "m.parrot"


@pytest_asyncio.fixture
async def engine(kind: EngineSpec, polly: Path) -> AsyncIterator[Engine]:
    made = kind.make(File(polly, options={"words_per_second": 200.0}), HOST)
    await made.initialize()
    yield made
    await made.close()


async def answer(engine: Engine, max_tokens: int | None = None, prompt: str = PROMPT) -> tuple[str, Finish]:
    events = [event async for event in engine.generate(GenerationRequest(prompt=prompt, max_tokens=max_tokens))]
    assert isinstance(events[-1], Finish)
    return "".join(event.text for event in events if isinstance(event, Piece)), events[-1]


async def test_it_answers(engine: Engine) -> None:
    text, finish = await answer(engine)
    assert (text, finish.reason) == ("one two three says Polly<|squawk|>", "stop")
    assert finish.usage.completion == 5
    text, finish = await answer(engine, 2)
    assert (text, finish.reason, finish.usage.completion) == ("one two ", "length", 2)


async def test_a_run_that_is_left_or_aborted_ends_alone(engine: Engine) -> None:
    long = f"<|user|>{'word ' * 500}<|squawk|>"
    async with aclosing(engine.generate(GenerationRequest(prompt=long))) as events:
        async for event in events:
            if isinstance(event, Piece):
                break
    request = GenerationRequest(prompt=long)
    reasons = []
    async for event in engine.generate(request):
        if isinstance(event, Piece):
            await engine.abort(request.id)
        elif isinstance(event, Finish):
            reasons.append(event.reason)
    await engine.abort("never seen")
    assert reasons == ["abort"]
    assert (await answer(engine))[1].reason == "stop"


async def test_requests_together_are_answered_one_after_the_other(engine: Engine) -> None:
    asked = [answer(engine, prompt=f"<|user|>number {number}<|squawk|>") for number in range(4)]
    texts = [text for text, _ in await asyncio.gather(*asked)]
    assert texts == [f"number {number} says Polly<|squawk|>" for number in range(4)]


async def test_example_engine_refuses_what_it_cannot_do(kind: EngineSpec, engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(ContextOverflow):
        await answer(engine, prompt="word " * 5000)
    with pytest.raises(NotSupported):
        await answer(engine, prompt=None)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        kind.make(File(tmp_path / "m.parrot", options={"colour": "red"}), HOST)
    with pytest.raises(ModelFileError, match="is no parrot"):
        await kind.make(File(tmp_path / "gone.parrot"), HOST).initialize()
    await engine.close()
    await engine.close()
    assert isinstance(await engine.lost(), RunnerLost)
    with pytest.raises(RunnerLost):
        await answer(engine)
