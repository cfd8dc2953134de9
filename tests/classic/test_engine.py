"""The engine behind a node of classic exo, against the simulated library through the real ctypes path."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exo_rkllm.engine import RKLLMInferenceEngine
from exo_rkllm.errors import ModelNotFound, NotSupported
from simulator import tokenizer
from tests.classic.conftest import END, Downloader, OneArgument, Singleton
from tests.classic.node import Shard, ask, ring, whole

Add = Callable[..., str]
Make = Callable[..., RKLLMInferenceEngine]


def descriptors_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def said(tokens: list[int]) -> str:
    return tokenizer.decode([token for token in tokens if token != END])


@pytest.mark.seed("4.2", "infer_tensor(request_id, shard, input_data, inference_state)")
async def test_a_question_is_answered_token_by_token(add: Add, make_engine: Make) -> None:
    model = add("parrot", reply="you said {user}")
    answer = await ask([make_engine()], [whole(model)], "one two three", "r1")
    assert said(answer.tokens) == "you said one two three"
    assert answer.ended


async def test_bytes_of_one_character_come_as_the_tokens_that_they_are(add: Add, make_engine: Make) -> None:
    model = add("parrot", reply="a < 日本 < ü")
    answer = await ask([make_engine()], [whole(model)], "x", "r1")
    assert said(answer.tokens) == "a < 日本 < ü"


async def test_requests_at_once_are_told_apart_by_their_ids_only(add: Add, make_engine: Make) -> None:
    model, engine = add("parrot", reply="{user}"), make_engine()
    asked = [" ".join(f"{word}{number}" for number in range(10)) for word in ("red", "green", "blue")]
    answers = await asyncio.gather(*(ask([engine], [whole(model)], text, f"r{text}") for text in asked))
    assert [said(answer.tokens) for answer in answers] == asked


async def test_a_question_to_another_model_changes_no_answer_that_is_under_way(
    add: Add, make_engine: Make, tmp_path: Path
) -> None:
    """The host makes the other model this engine's while a token is awaited, and each has its own end."""
    model, other, engine = add("parrot", reply="{user}", decode_tps=100), add("other"), make_engine()
    ends = json.dumps({"eos_token_id": tokenizer.token(" green")})
    (tmp_path / "models/other/generation_config.json").write_text(ends)

    async def switch() -> None:
        while True:
            await engine.ensure_shard(whole(other))
            await asyncio.sleep(0.002)

    switching = asyncio.ensure_future(switch())
    answer = await ask([engine], [whole(model)], "red green blue red green blue", "r1")
    switching.cancel()
    assert said(answer.tokens) == "red green blue red green blue"
    assert answer.ended


@pytest.mark.seed("4.2", "state by request id, queue and idle limit")
async def test_fifty_requests_of_which_ten_are_abandoned_and_the_next_is_served(
    add: Add, make_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXO_RKLLM_CLASSIC_IDLE", "0.3")
    model, engine = add("parrot", reply="{user}"), make_engine()
    await ask([engine], [whole(model)], "warm", "first")
    tasks, descriptors = len(asyncio.all_tasks()), descriptors_open()
    asked = [f"question {number} of fifty, please" for number in range(50)]

    async def one(number: int, text: str) -> str:
        left = number % 5 == 4
        answer = await ask([engine], [whole(model)], text, f"r{number}", leave_after=2 if left else 10_000, timeout=60)
        return "left" if left else said(answer.tokens)

    answers = await asyncio.gather(*(one(number, text) for number, text in enumerate(asked)))
    assert answers == ["left" if number % 5 == 4 else text for number, text in enumerate(asked)]
    began = time.monotonic()
    answer = await ask([engine], [whole(model)], "and now", "last")
    assert said(answer.tokens) == "and now"
    assert time.monotonic() - began < 5.0, "ten that left must not hold the runtime for longer than their limit"
    await asyncio.sleep(0.8)
    assert engine._runs is not None
    assert len(engine._runs) == 0
    assert len(asyncio.all_tasks()) <= tasks
    assert descriptors_open() <= descriptors


async def test_token_asked_for_too_late_ends_the_request_without_an_error(
    add: Add, make_engine: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EXO_RKLLM_CLASSIC_IDLE", "0.1")
    model, engine = add("parrot", reply="one two three four five"), make_engine()
    await ask([engine], [whole(model)], "x", "r1", leave_after=1)
    await asyncio.sleep(0.5)
    token, _ = await engine.infer_tensor("r1", whole(model), np.array([[1]]))
    assert token.item() == END
    assert "given up after 0.1 s" in caplog.text


@pytest.mark.seed("4.2", "clear errors for missing dependencies")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"EXO_RKLLM_RUNTIME_LIBRARY": "/nonexistent/librkllmrt.so"}, "librkllmrt"),
        ({"EXO_RKLLM_MODELS_DIRECTORY": "/nonexistent"}, "no .rkllm file here"),
    ],
)
async def test_what_is_missing_is_said_before_the_first_token(
    add: Add, make_engine: Make, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], says: str
) -> None:
    model = add("parrot")
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Exception, match=says) as caught:
        await ask([make_engine()], [whole(model)], "x", "r1")
    assert getattr(caught.value, "hint", "")


async def test_a_library_that_dies_amid_an_answer_ends_it_and_the_next_one_works(
    add: Add, make_engine: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The host swallows what is raised after the first token, and its client would wait for 900 s."""
    model = add("mortal", reply="one two three four five six", faults=("segv@token:3",))
    engine = make_engine()
    answer = await ask([engine], [whole(model)], "x", "r1")
    assert answer.ended
    assert answer.swallowed is None
    assert "SIGSEGV" in caplog.text
    assert (await ask([engine], [whole(model)], "x", "r2")).tokens


@pytest.mark.seed("4.2", "2 async")
async def test_the_loop_is_never_held(add: Add, make_engine: Make) -> None:
    """One blocking call would stall exo's API, its health checks and its discovery alike."""
    model, engine, late = (
        add("slow", reply="one two three four five six", decode_tps=20, load_seconds=0.5),
        make_engine(),
        0.0,
    )

    async def clock() -> None:
        nonlocal late
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            late = max(late, time.monotonic() - before - 0.01)

    await engine.ensure_shard(whole(model))
    ticking = asyncio.ensure_future(clock())
    await ask([engine], [whole(model)], "x", "r1")
    ticking.cancel()
    assert late < 0.3, "the bar is 0.05 s; the machine may be testing something else as well"


# ── rings ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.seed("4.2", "infer_prompt default")
async def test_some_layers_of_a_model_are_refused_with_the_reason(add: Add, make_engine: Make) -> None:
    model = add("parrot")
    shards = ring(model, (64, 16))
    with pytest.raises(NotSupported, match="layers 0 to 21 of 28"):
        await ask([make_engine(), make_engine()], shards, "x", "r1")


async def test_in_first_mode_the_first_node_answers_and_the_others_hand_on(
    add: Add, make_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXO_RKLLM_CLASSIC_RING", "first")
    model = add("parrot", reply="you said {user}")
    engines = [make_engine(), make_engine(), make_engine()]
    answer = await ask(engines, ring(model, (16, 16, 8)), "one two", "r1")
    assert said(answer.tokens) == "you said one two"
    assert [engine._runs is None or not engine._runs._runs for engine in engines] == [True, True, True]


async def test_another_engines_activations_end_the_answer_and_say_so(
    add: Add, make_engine: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EXO_RKLLM_CLASSIC_RING", "first")
    engine, shard = make_engine(), Shard(add("parrot"), 14, 27, 28)
    await engine.ensure_shard(shard)
    token, _ = await engine.infer_tensor("r1", shard, np.zeros((1, 4, 64), dtype=np.float16))
    assert token.item() == END
    assert "every node of the ring needs this one" in caplog.text


# ── the rest of the contract ─────────────────────────────────────────────────────────────────────


@pytest.mark.seed("4.2", "__init__(self, shard_downloader)")
@pytest.mark.seed("4.2", "best practice 1 lazy loading")
def test_it_is_made_before_any_loop_and_asks_nobody(add: Add) -> None:
    downloader = Downloader()
    add("parrot")
    engine = RKLLMInferenceEngine(downloader)
    assert downloader.asked == []
    assert engine.shard_downloader is downloader
    assert "librkllmrt" not in Path("/proc/self/maps").read_text()


@pytest.mark.seed("4.2", "sample(x)")
async def test_sampling_passes_ids_and_takes_the_largest_logit(add: Add, make_engine: Make) -> None:
    add("parrot")
    engine = make_engine()
    assert (await engine.sample(np.array([[7]]), temp=0.0)).tolist() == [7]
    assert (await engine.sample(np.array([[[0.0, 2.0, 1.0]]]), temp=0.6, top_p=0.9)).tolist() == [1]
    inspect.signature(RKLLMInferenceEngine.sample).bind(None, None, temp=0.0)


@pytest.mark.seed("4.2", "encode(shard, prompt)")
@pytest.mark.seed("4.2", "decode(shard, tokens)")
async def test_text_becomes_ids_and_back(add: Add, make_engine: Make) -> None:
    engine, shard = make_engine(), whole(add("parrot"))
    ids = await engine.encode(shard, "good morning")
    assert (ids.ndim, ids.dtype) == (1, np.int32)
    assert await engine.decode(shard, ids) == await engine.decode(shard, ids.tolist()) == "good morning"
    assert engine.tokenizer is not None
    assert engine.tokenizer.eos_token_id == END


async def test_prompt_ids_instead_of_a_prompt_are_answered_too(add: Add, make_engine: Make) -> None:
    engine, shard = make_engine(), whole(add("parrot", reply="fine"))
    ids = await engine.encode(shard, "how are you")
    token, state = await engine.infer_tensor("r1", shard, ids.reshape(1, -1), {})
    assert (tokenizer.decode([token.item()]), state) == ("fine", {})


@pytest.mark.seed("4.2", "load_checkpoint(shard, path)")
async def test_a_checkpoint_is_the_models_own_file_or_nothing(add: Add, make_engine: Make, tmp_path: Path) -> None:
    engine, shard = make_engine(), whole(add("parrot", reply="fine"))
    await engine.load_checkpoint(shard, None)
    await engine.load_checkpoint(shard, str(tmp_path / "models/parrot"))
    assert said((await ask([engine], [shard], "x", "r1")).tokens) == "fine"
    (tmp_path / "other.rkllm").write_bytes(b"x")
    await engine.load_checkpoint(shard, str(tmp_path / "other.rkllm"))
    with pytest.raises(NotSupported, match="is not the file of parrot"):
        await ask([engine], [shard], "x", "r2")
    with pytest.raises(ModelNotFound, match="There is no file"):
        await engine.load_checkpoint(shard, str(tmp_path / "gone.rkllm"))
    with pytest.raises(ModelNotFound, match=r"has 0 \.rkllm files"):
        await engine.load_checkpoint(shard, str(tmp_path / "lib"))


@pytest.mark.seed("4.2", "save_session(key,value), clear_session()")
async def test_a_session_is_the_engines_own(add: Add, make_engine: Make) -> None:
    add("parrot")
    one, two = make_engine(), make_engine()
    await one.save_session("key", 1)
    assert two.session == {}
    await one.clear_session()
    assert one.session == {}


@pytest.mark.seed("4.2", "save_checkpoint optional")
@pytest.mark.parametrize("function", ["train", "evaluate", "save_checkpoint"])
async def test_a_compiled_model_is_not_trained(add: Add, make_engine: Make, function: str) -> None:
    add("parrot")
    with pytest.raises(NotImplementedError, match="neither trained nor evaluated"):
        await getattr(make_engine(), function)("r1", None)


async def test_an_unknown_model_is_named(add: Add, make_engine: Make) -> None:
    add("parrot")
    with pytest.raises(ModelNotFound, match=r"llama-3\.2-1b") as caught:
        await make_engine().ensure_shard(whole("llama-3.2-1b"))
    assert "--default-model" in caught.value.hint


@pytest.mark.seed("4.2", "DEBUG=2")
def test_it_is_as_talkative_as_exos_debug_says(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    add("parrot")
    ours, root = logging.getLogger("exo_rkllm"), logging.getLogger()
    kept = ours.handlers[:], root.handlers[:], ours.level
    try:
        root.handlers[:] = []
        for debug, level in (("", logging.WARNING), ("1", logging.INFO), ("2", logging.DEBUG), ("x", logging.WARNING)):
            ours.handlers[:] = []
            monkeypatch.setenv("DEBUG", debug)
            RKLLMInferenceEngine(Downloader())
            assert ours.level == level
    finally:
        ours.handlers[:], root.handlers[:] = kept[0], kept[1]
        ours.setLevel(kept[2])


@pytest.mark.seed("4.2", "Prometheus metrics")
async def test_counters_are_counted_once_whatever_is_made_twice(add: Add, make_engine: Make) -> None:
    from prometheus_client import REGISTRY

    model = add("parrot", reply="one two")
    name = "exo_rkllm_classic_requests_total"
    before = REGISTRY.get_sample_value(name, {"reason": "done"}) or 0
    for number in range(2):
        await ask([make_engine()], [whole(model)], "x", f"r{number}")
    assert REGISTRY.get_sample_value(name, {"reason": "done"}) == before + 2


# ── downloads ────────────────────────────────────────────────────────────────────────────────────


async def test_the_hosts_downloader_asks_the_internet_for_others_models_only(
    add: Add, make_engine: Make, tmp_path: Path
) -> None:
    model, inner = add("parrot"), Downloader()
    given = Singleton(inner)
    make_engine(given)
    make_engine(given)
    local = given.shard_downloader
    assert local.inner is inner, "twice is as good as once"
    assert await local.ensure_shard(whole(model), "RKLLMInferenceEngine") == tmp_path / "models/parrot"
    assert await local.ensure_shard(whole("llama"), "TinygradDynamicShardInferenceEngine") == Path("/from/the/internet")
    assert inner.asked == [("llama", "TinygradDynamicShardInferenceEngine")]


@dataclass
class Progress:
    """Every field that v0.0.15 and the fork ask for; neither has a default."""

    shard: Shard
    repo_id: str
    repo_revision: str
    completed_files: int
    total_files: int
    downloaded_bytes: int
    downloaded_bytes_this_session: int
    total_bytes: int
    overall_speed: int
    overall_eta: timedelta
    file_progress: dict[str, Any]
    status: str


async def test_the_hosts_list_of_downloads_says_that_the_models_are_here(
    add: Add, make_engine: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, held in {"download.download_progress": Progress, "inference.shard": Shard}.items():
        module = types.ModuleType(f"exo.{name}")
        setattr(module, {Progress: "RepoProgressEvent", Shard: "Shard"}[held], held)
        monkeypatch.setitem(sys.modules, f"exo.{name}", module)
    model, given = add("parrot"), Singleton(Downloader())
    make_engine(given)
    listed = [one async for _, one in given.shard_downloader.get_shard_download_status("RKLLMInferenceEngine")]
    assert [one.shard for one in listed] == [whole(model)]
    assert listed[0].downloaded_bytes == listed[0].total_bytes > 0


@pytest.mark.seed("4.2", "ensure_shard(shard) of the downloader")
@pytest.mark.parametrize(("inner", "place"), [(Downloader(), "/from/the/internet"), (OneArgument(), "/mock")])
async def test_downloaders_of_one_and_of_two_arguments(
    add: Add, make_engine: Make, tmp_path: Path, inner: Any, place: str
) -> None:
    model, given = add("parrot"), Singleton(inner)
    make_engine(given)
    assert await given.shard_downloader.ensure_shard(whole(model)) == tmp_path / "models/parrot"
    assert await given.shard_downloader.ensure_shard(whole("llama")) == Path(place)
