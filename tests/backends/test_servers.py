"""Models behind a server of llama.cpp's or anybody's: what goes wrong, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.backends.base import Engine, Finish, GenerationRequest, Image, Message, Piece, Sampling, Tool, ToolCall
from exo_rkllm.backends.chat_body import body
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.openai import read_key
from exo_rkllm.backends.registry import EngineRegistry
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.errors import (
    Busy,
    CardError,
    ConfigError,
    LoadError,
    ModelFileError,
    ModelNotFound,
    NotSupported,
    RunError,
    RunnerLost,
    UsageError,
)

HOST = EngineHost(lambda _lines: None)
KILLS = 50 if os.environ.get("TESTS_LONG") else 15
Gguf = Callable[..., Entry]
Serve = Callable[..., Any]


def ask(text: str, **fields: Any) -> GenerationRequest:
    return GenerationRequest(messages=(Message("user", text),), **fields)


async def events(engine: Engine, request: GenerationRequest) -> list[Any]:
    return [event async for event in engine.generate(request)]


async def answer(engine: Engine, text: str, **fields: Any) -> str:
    found = await events(engine, ask(text, **fields))
    return "".join(event.text for event in found if isinstance(event, Piece))


async def loaded(entry: Entry) -> Any:
    engine = EngineRegistry().make(entry, HOST)
    await engine.initialize()
    return engine


# ── both ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prompt", [{"prompt": "one two"}, {"tokens": (1, 2)}])
async def test_a_prompt_is_taken_as_it_is(serve: Serve, prompt: dict[str, Any]) -> None:
    engine = await loaded(await serve())
    found = await events(engine, GenerationRequest(**prompt))
    assert [event.text for event in found if isinstance(event, Piece)] in (["one", " two"], ["1", " 2"])
    await engine.close()


async def test_tools_and_thoughts_come_as_ours(serve: Serve) -> None:
    engine = await loaded(await serve())
    found = await events(engine, ask("x", tools=(Tool("look"),), thinking=True))
    pieces = [event for event in found if isinstance(event, Piece)]
    assert [piece.kind for piece in pieces] == ["thinking", "tool_call"]
    assert json.loads(pieces[1].text) == {"id": "c1", "name": "look", "arguments": '{"a": 1}'}
    assert found[-1].reason == "tool_calls"
    await engine.close()


async def test_figures_and_times_are_the_servers(serve: Serve, gguf: Gguf) -> None:
    far, near = await loaded(await serve()), await loaded(gguf())
    finish = (await events(far, ask("one two three")))[-1]
    assert (finish.usage.prompt, finish.usage.cached, finish.usage.completion) == (3, 1, 3)
    finish = (await events(near, ask("one two three")))[-1]
    assert (finish.usage.cached, finish.timings.prefill, finish.timings.decode) == (2, 0.0125, 0.04)
    await far.close()
    await near.close()


@pytest.mark.parametrize(
    ("question", "error", "says"),
    [
        ("redirect me", LoadError, "sends its clients elsewhere"),
        ("busy", Busy, "Too many"),
        ("one two cut at 2", RunnerLost, "before its end"),
        ("one two nonsense at 2", RunError, "no JSON"),
    ],
)
async def test_refusal_of_a_server_becomes_one_of_our_errors(
    serve: Serve, question: str, error: type[Exception], says: str
) -> None:
    engine = await loaded(await serve())
    with pytest.raises(error, match=says) as caught:
        await answer(engine, question)
    if isinstance(caught.value, Busy):
        assert caught.value.retry_after == 7
    assert await answer(engine, "still there") == "still there"
    await engine.close()


@pytest.mark.parametrize("far", [True, False])
async def test_a_request_that_a_server_cannot_take_is_the_clients_error(serve: Serve, gguf: Gguf, far: bool) -> None:
    """Of images llama.cpp says so with a status that looks like its own fault."""
    engine = await loaded(await serve() if far else gguf())
    picture = Message("user", "blind", images=(Image(b"\x89PNG", "image/png"),))
    with pytest.raises(NotSupported, match="image"):
        await events(engine, GenerationRequest(messages=(picture,)))
    with pytest.raises(UsageError, match="top_k must be"):
        await events(engine, ask("x", sampling=Sampling(top_k=-5)))
    assert await answer(engine, "next") == "next"
    await engine.close()


async def test_a_server_that_falls_silent_is_given_up(serve: Serve) -> None:
    engine = await loaded(await serve(silence_seconds=0.2))
    with pytest.raises(RunnerLost, match="silent for too long"):
        await answer(engine, "one two stall at 1")
    await engine.close()


async def test_an_abort_ends_that_run_with_its_reason(serve: Serve) -> None:
    engine = await loaded(await serve())
    request = ask("one two three stall at 3")
    found: list[Any] = []
    async for event in engine.generate(request):
        found.append(event)
        if isinstance(event, Piece) and len(found) == 3:
            await engine.abort(request.id)
    assert found[-1] == Finish("abort")
    assert await answer(engine, "next") == "next"
    await engine.close()


async def test_an_abort_before_the_first_word_ends_the_run(serve: Serve) -> None:
    """A server says nothing before it has read the prompt, not even its status."""
    engine = await loaded(await serve())
    request = ask("slow")
    reader = asyncio.ensure_future(events(engine, request))
    await asyncio.sleep(0.1)
    await engine.abort(request.id)
    assert (await asyncio.wait_for(reader, 20))[1:] == [Finish("abort")]
    await engine.close()


async def test_closing_ends_a_run_that_has_no_word_yet(serve: Serve) -> None:
    engine = await loaded(await serve())
    reader = asyncio.ensure_future(answer(engine, "slow"))
    await asyncio.sleep(0.05)
    await engine.close()
    with pytest.raises(RunnerLost, match="was unloaded"):
        await asyncio.wait_for(reader, 20)


async def test_waiting_for_the_loss_may_be_cancelled(serve: Serve) -> None:
    engine = await loaded(await serve())
    waiting = asyncio.ensure_future(engine.lost())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert await answer(engine, "still there") == "still there"
    await engine.close()


async def test_long_list_of_models_is_read_whole(serve: Serve) -> None:
    """A board of ours with a full catalogue answers in many."""
    engine = await loaded(await serve(more=5000, model="far/model"))
    assert await answer(engine, "hello") == "hello"
    await engine.close()


# ── a server somewhere ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("vllm", [True, False])
async def test_the_key_comes_from_a_file_and_a_wrong_one_is_said_at_load(
    serve: Serve, tmp_path: Path, vllm: bool
) -> None:
    (tmp_path / "key").write_text("secret\n")
    engine = await loaded(await _keyed(serve, tmp_path / "key", vllm=vllm))
    assert await answer(engine, "hello") == "hello"
    await engine.close()
    (tmp_path / "key").write_text("wrong")
    with pytest.raises(LoadError, match="refuses the key: Invalid API Key"):
        await loaded(await _keyed(serve, tmp_path / "key", vllm=vllm))


async def _keyed(serve: Serve, path: Path, *, vllm: bool) -> Entry:
    entry = await serve(key="secret", vllm=vllm)
    entry.card.options["key"] = str(path)
    found: Entry = entry
    return found


def test_a_key_is_a_file_or_a_credential(tmp_path: Path) -> None:
    (tmp_path / "vllm").write_text("secret\n")
    assert read_key("vllm", {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "secret"
    assert read_key("", {}) == ""
    for named, environment in (("vllm", {}), ("../vllm", {"CREDENTIALS_DIRECTORY": str(tmp_path)})):
        with pytest.raises(ConfigError, match="no credential"):
            read_key(named, environment)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(str(tmp_path / "gone"), {})


async def test_missing_server_and_missing_model_are_named(serve: Serve) -> None:
    with pytest.raises(LoadError, match="does not answer: Connect"):
        await loaded(await serve(base_url="http://127.0.0.1:9/v1"))
    with pytest.raises(ModelNotFound, match="has no model other") as caught:
        await loaded(await serve(model="other"))
    assert "far/model" in caught.value.hint


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://x/v1?key=1"])
async def test_a_card_without_a_place_is_refused(serve: Serve, url: str) -> None:
    with pytest.raises(CardError, match="no usable base_url"):
        await loaded(await serve(base_url=url))


async def test_a_server_that_goes_away_ends_the_answer_and_comes_back(serve: Serve) -> None:
    entry = await serve()
    engine = await loaded(entry)
    with pytest.raises(RunnerLost):
        async with aclosing(engine.generate(ask("one two three stall at 3"))) as run:
            async for event in run:
                if isinstance(event, Piece) and event.text == " three":
                    await serve.runners[0].cleanup()  # type: ignore[attr-defined]
    await engine.close()


# ── llama.cpp ────────────────────────────────────────────────────────────────────────────────────


async def test_killed_many_times_amid_an_answer_and_nothing_stays(gguf: Gguf) -> None:
    for _ in range(KILLS):
        engine = await loaded(gguf())
        pid = engine.pid
        with pytest.raises(RunnerLost):
            async with aclosing(engine.generate(ask("word " * 300 + "stall at 200"))) as run:
                async for event in run:
                    if isinstance(event, Piece) and pid:
                        with suppress(ProcessLookupError):  # what it had said already still comes
                            os.kill(pid, signal.SIGKILL)
        assert "SIGKILL" in (await engine.lost()).sentence
        await engine.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    engine = await loaded(gguf())
    assert await answer(engine, "and now") == "and now"
    await engine.close()


async def test_death_of_the_server_is_explained_by_its_signal(gguf: Gguf) -> None:
    engine = await loaded(gguf())
    with pytest.raises(RunnerLost):
        await answer(engine, "one two die at 2")
    assert "was killed by SIGKILL" in (await engine.lost()).sentence
    await engine.close()


async def test_a_build_for_another_processor_is_named(gguf: Gguf) -> None:
    engine = await loaded(gguf())
    os.kill(engine.pid or 0, signal.SIGILL)
    lost = await engine.lost()
    assert "was killed by SIGILL" in lost.sentence
    assert "for another processor" in lost.hint
    await engine.close()


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"program": "/nonexistent/llama-server"}, LoadError, "no program /nonexistent/llama-server"),
        ({"arguments": ["--fail", "model architecture unknown"]}, LoadError, "exit code 1: error: model architecture"),
        ({"colour": "red"}, UsageError, "Engine llamacpp refuses the card of .*: there is no key options.colour"),
        ({"load_seconds": 0.0}, LoadError, "not loaded after 0 s"),
    ],
)
async def test_a_start_that_fails_says_why(
    gguf: Gguf, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await loaded(gguf(**options))


async def test_file_that_is_no_gguf_or_missing_is_refused(gguf: Gguf, tmp_path: Path) -> None:
    entry = gguf()
    (tmp_path / "m.gguf").write_bytes(b"PK")
    with pytest.raises(ModelFileError, match=r"m\.gguf is no GGUF file"):
        await loaded(entry)
    (tmp_path / "m.gguf").unlink()
    with pytest.raises(ModelNotFound, match="cannot be read"):
        await loaded(entry)


async def test_the_key_is_not_among_the_arguments(gguf: Gguf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
    engine = await loaded(gguf(threads=2, gpu_layers=3))
    line = await asyncio.to_thread(Path(f"/proc/{engine.pid}/cmdline").read_bytes)
    assert b"-ngl\0003" in line
    environment = await asyncio.to_thread(Path(f"/proc/{engine.pid}/environ").read_bytes)
    (key,) = [one for one in environment.split(b"\0") if one.startswith(b"LLAMA_API_KEY=")]
    assert len(key) > 40
    assert b"CREDENTIALS_DIRECTORY" not in environment
    assert key.partition(b"=")[2] not in line
    assert engine.memory
    assert os.getpgid(engine.pid) == engine.pid, "Ctrl-C in a terminal is the daemon's"
    await engine.close()


# ── what is asked ────────────────────────────────────────────────────────────────────────────────


def test_a_conversation_in_the_words_of_the_api() -> None:
    request = GenerationRequest(
        messages=(
            Message("user", "see", images=(Image(b"x", "image/png", at=1),)),
            Message("assistant", "", reasoning="hm", tool_calls=(ToolCall("c", "look", "{}"),)),
            Message("tool", "seen", tool_call_id="c", name="look"),
        ),
        tools=(Tool("look"),),
        tool_choice="look",
        stop=("END",),
        sampling=Sampling(temperature=0.5),
    )
    path, asked = body(
        request, "m", Sampling(top_p=0.9, temperature=1.0, repeat_penalty=1.0), {"temperature", "top_p"}, "X", "vllm"
    )
    assert path == "/chat/completions"
    assert (asked["temperature"], asked["top_p"], asked["stop"]) == (0.5, 0.9, ["END"])
    assert asked["messages"][0]["content"] == [
        {"type": "text", "text": "s"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,eA=="}},
        {"type": "text", "text": "ee"},
    ]
    assert asked["messages"][1]["tool_calls"][0]["function"] == {"name": "look", "arguments": "{}"}
    assert asked["messages"][2]["tool_call_id"] == "c"
    assert asked["tool_choice"] == {"type": "function", "function": {"name": "look"}}


@pytest.mark.parametrize(
    ("request_", "says"),
    [(ask("x", sampling=Sampling(mirostat=2)), "X takes no mirostat"), (ask("x", output="hidden"), "no hidden")],
)
def test_setting_that_a_server_cannot_take_is_refused(request_: GenerationRequest, says: str) -> None:
    with pytest.raises(NotSupported, match=says):
        body(request_, "m", Sampling(), (), "X")
