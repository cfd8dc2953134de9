"""The same engine behind current exo's pair of classes; the types are exo's in shape, the model is simulated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from exo_rkllm.errors import ModelNotFound, NotSupported
from exo_rkllm.exo_engine import ALL_TASKS, NpuBuilder, NpuEngine

Add = Callable[..., str]


@dataclass
class GenerationResponse:
    text: str
    token: int
    usage: Any
    finish_reason: str | None = None


@dataclass
class ToolCallResponse:
    tool_calls: list[Any]
    usage: Any


@dataclass
class PrefillProgressResponse:
    processed_tokens: int
    total_tokens: int


@dataclass
class FinishedResponse:
    pass


TYPES = SimpleNamespace(
    GenerationResponse=GenerationResponse,
    ToolCallResponse=ToolCallResponse,
    PrefillProgressResponse=PrefillProgressResponse,
    FinishedResponse=FinishedResponse,
)


def instance(model: str, nodes: int = 1) -> Any:
    return SimpleNamespace(
        instance=SimpleNamespace(shard_assignments=SimpleNamespace(node_to_runner=dict.fromkeys(range(nodes), "r"))),
        bound_shard=SimpleNamespace(model_card=SimpleNamespace(model_id=model)),
    )


def task(name: str, text: str, **params: Any) -> Any:
    return SimpleNamespace(task_id=name, task_params={"input": [{"role": "user", "content": text}], **params})


def built(model: str) -> Iterator[NpuEngine]:
    builder = NpuBuilder(TYPES)
    builder.connect(instance(model))
    assert list(builder.load(instance(model))) == []
    yield builder.build()
    builder.close()
    builder.close()


@pytest.fixture
def engine(add: Add) -> Iterator[NpuEngine]:
    add("parrot", reply="you said {user}", decode_tps=200)
    yield from built("rkllm/parrot")


def answers(engine: NpuEngine, *names: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {name: [] for name in names}
    while not all(one and isinstance(one[-1], FinishedResponse) for one in found.values()):
        for name, response in engine.step():
            found[name].append(response)
    return found


def said(responses: list[Any]) -> str:
    return "".join(one.text for one in responses if isinstance(one, GenerationResponse))


@pytest.mark.seed("4.3", "alternative: separate runner types")
def test_tasks_of_exo_are_answered_each_with_its_own(engine: NpuEngine) -> None:
    engine.warmup()
    engine.submit(task("one", "red apples"))
    engine.submit(task("two", "green pears"))
    found = answers(engine, "one", "two")
    assert "red apples" in said(found["one"])
    assert "green pears" in said(found["two"])
    last = [one for one in found["one"] if isinstance(one, GenerationResponse)][-1]
    assert last.finish_reason == "stop"
    assert last.usage["completion_tokens"] > 0
    assert isinstance(found["one"][0], PrefillProgressResponse)


def test_a_limit_is_told_as_exo_tells_it(engine: NpuEngine) -> None:
    engine.submit(task("one", "a b c d e f g", max_output_tokens=3))
    (found,) = answers(engine, "one").values()
    assert [one.finish_reason for one in found if isinstance(one, GenerationResponse)][-1] == "length"


@pytest.mark.parametrize("what", ["one", ALL_TASKS])
def test_a_cancelled_task_ends_and_the_next_one_is_answered(engine: NpuEngine, what: str) -> None:
    engine.submit(task("one", "word " * 500))
    next(iter(engine.step()))
    engine._cancelled_tasks.add(what)
    found = answers(engine, "one")["one"]
    assert not [one for one in found if getattr(one, "finish_reason", None)]
    engine._cancelled_tasks.clear()
    engine.submit(task("two", "again"))
    assert "again" in said(answers(engine, "two")["two"])


def test_what_goes_wrong_is_raised_to_exos_runner(engine: NpuEngine) -> None:
    engine.submit(task("one", "word " * 5000))
    with pytest.raises(Exception, match="context"):
        while True:
            list(engine.step())


def test_a_model_is_never_cut() -> None:
    with pytest.raises(NotSupported, match="on 2 nodes"):
        NpuBuilder(TYPES).connect(instance("parrot", nodes=2))


def test_a_model_that_is_not_here_is_named_and_no_thread_stays(add: Add) -> None:
    add("parrot")
    before = threading.active_count()
    builder = NpuBuilder(TYPES)
    list(builder.load(instance("llama-9")))
    with pytest.raises(ModelNotFound, match="llama-9"):
        builder.build()
    assert threading.active_count() == before


def test_without_exo_it_says_what_joins_a_cluster() -> None:
    with pytest.raises(NotSupported, match="No current exo") as caught:
        NpuBuilder()
    assert "exo-rkllm serve" in caught.value.hint
