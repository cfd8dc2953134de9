"""The real llama.cpp server, with a model made here; the stand-in's shapes are held to what is seen here."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from exo_rkllm.backends.base import (
    Finish,
    GenerationRequest,
    Message,
    Piece,
    Progress,
    Sampling,
    Structure,
    Tool,
    ToolCall,
)
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.registry import EngineRegistry
from exo_rkllm.catalogue.card import Card, Weights
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.dispatch.dispatcher import Dispatcher
from exo_rkllm.dispatch.state import ModelNeeds
from exo_rkllm.errors import ContextOverflow, LoadError, ModelNotFound, NotSupported, OutOfMemory, RunnerLost
from tests.backends import alphabet
from tests.backends.llama_programs import MISSING, REPOSITORY, program

Make = Callable[..., Entry]


@pytest.fixture(scope="module", autouse=True)
def available() -> None:
    if program() is None:
        pytest.skip(MISSING)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(tmp_path: Path) -> Make:
    alphabet.make(tmp_path / "m.gguf")

    def entry(context: int = 1024, **options: Any) -> Entry:
        options = {"program": program(), "threads": 1, **options}
        return Entry(
            tmp_path, Card("m", engine="llamacpp", context=context, weights=Weights("m.gguf"), options=options)
        )

    return entry


async def loaded(entry: Entry, said: list[str]) -> Any:
    engine = EngineRegistry().make(entry, EngineHost(said.extend))
    await engine.initialize()
    return engine


@pytest_asyncio.fixture
async def engine(make: Make, said: list[str]) -> AsyncIterator[Any]:
    engine = await loaded(make(), said)
    yield engine
    await engine.close()


def ask(text: str, **fields: Any) -> GenerationRequest:
    return GenerationRequest(messages=(Message("user", text),), sampling=Sampling(temperature=0.0), **fields)


async def answer(engine: Any, request: GenerationRequest) -> tuple[str, Finish]:
    events = [event async for event in engine.generate(request)]
    assert isinstance(events[0], Progress)
    assert isinstance(events[-1], Finish)
    return "".join(event.text for event in events if isinstance(event, Piece)), events[-1]


async def test_server_answers_and_counts(engine: Any, said: list[str]) -> None:
    text, finish = await answer(engine, ask("Say:f"))
    assert text == alphabet.following("f")
    assert finish.reason == "stop"
    assert finish.usage.prompt == len("Say:f") + 1, "and the beginning of text"
    assert finish.usage.completion == len(text) + 1, "the end of text is a token"
    assert finish.timings.prefill > 0
    assert finish.timings.decode > 0
    assert engine.capabilities.context == 1024
    assert engine.capabilities.images is False
    assert any("listening" in line for line in said), "its output is in the log"


async def test_the_second_turn_finds_the_first_in_the_cache(engine: Any) -> None:
    await answer(engine, ask("one two three a"))
    _, finish = await answer(engine, ask("one two three ab"))
    assert finish.usage.cached >= len("one two three")


async def test_server_honours_limits_stop_strings_and_prompts(engine: Any) -> None:
    text, finish = await answer(engine, ask("a", max_tokens=3))
    assert (text, finish.reason, finish.usage.completion) == ("bcd", "length", 3)
    text, finish = await answer(engine, ask("a", stop=("gh",)))
    assert (text, finish.reason) == ("bcdef", "stop")
    assert (await answer(engine, GenerationRequest(prompt="x", sampling=Sampling(temperature=0.0))))[0] == "yz"
    tokens = (alphabet.BEGIN, alphabet.BYTES + ord("v"))
    assert (await answer(engine, GenerationRequest(tokens=tokens, sampling=Sampling(temperature=0.0))))[0] == "wxyz"


async def test_server_holds_answers_to_a_schema_and_a_grammar(engine: Any) -> None:
    schema = Structure("schema", '{"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 2}')
    text, _ = await answer(engine, ask("a", structure=schema, max_tokens=200))
    assert len(json.loads(text)) == 2 and set(json.loads(text)) <= {1, 2}
    assert (await answer(engine, ask("a", structure=Structure("choice", '["yes"]'))))[0] == "yes"
    text, _ = await answer(engine, ask("a", structure=Structure("gbnf", 'root ::= "<" [a-c]{3} ">"'), max_tokens=20))
    assert re.fullmatch("<[a-c]{3}>", text)


async def test_every_setting_that_is_declared_is_taken(engine: Any) -> None:
    """Between two letters that are ten apart in their scores no setting changes the answer."""
    sampling = Sampling(
        temperature=0.1,
        top_k=1,
        top_p=0.9,
        repeat_penalty=1.0,
        frequency_penalty=0.1,
        presence_penalty=0.1,
        mirostat=0,
        mirostat_tau=5.0,
        mirostat_eta=0.1,
        seed=7,
    )
    assert (await answer(engine, GenerationRequest(messages=(Message("user", "x"),), sampling=sampling)))[0] == "yz"


async def test_tools_and_calls_reach_the_models_own_template(engine: Any) -> None:
    tool = Tool("look", "looks", {"type": "object", "properties": {"n": {"enum": [7]}}})
    text, bare = await answer(engine, ask("x"))
    assert text == "yz"
    text, finish = await answer(engine, ask("x", tools=(tool,)))
    assert text == "yz"
    assert finish.usage.prompt > bare.usage.prompt + 100, "the tool is in the prompt"
    call = Message("assistant", tool_calls=(ToolCall("c", "look", '{"n": 7}'),))
    talk = (Message("user", "?"), call, Message("tool", "w", tool_call_id="c", name="look"))
    request = GenerationRequest(messages=talk, tools=(tool,), sampling=Sampling(temperature=0.0))
    text, longer = await answer(engine, request)
    assert text == "xyz"
    assert longer.usage.prompt > finish.usage.prompt + 30, "and so is the call"


async def test_a_prompt_beyond_the_context_is_refused_and_the_next_one_works(make: Make, said: list[str]) -> None:
    engine = await loaded(make(context=256), said)
    with pytest.raises(ContextOverflow, match="does not fit"):
        await answer(engine, ask("a" * 600))
    assert (await answer(engine, ask("w")))[0] == "xyz"
    await engine.close()


async def test_an_answer_that_fills_the_context_ends_by_length(make: Make, said: list[str]) -> None:
    """`!` is answered by ninety characters, for which there is no room."""
    engine = await loaded(make(context=256), said)
    _, finish = await answer(engine, ask("a" * 200 + "!"))
    assert finish.reason == "length"
    await engine.close()


async def test_client_that_leaves_frees_the_server(engine: Any) -> None:
    for _ in range(5):
        async with aclosing(engine.generate(ask("!"))) as events:
            async for event in events:
                if isinstance(event, Piece):
                    break
        assert (await answer(engine, ask("w")))[0] == "xyz"


async def test_an_abort_ends_that_run_with_its_reason(engine: Any) -> None:
    for wait_for in (Progress, Piece):
        request, found = ask("!"), []
        async for event in engine.generate(request):
            found.append(event)
            if isinstance(event, wait_for):
                await engine.abort(request.id)
        assert found[-1] == Finish("abort")
    assert (await answer(engine, ask("w")))[0] == "xyz"


async def test_runs_together_are_never_mixed(make: Make, said: list[str]) -> None:
    engine = await loaded(make(context=2048, parallel=2), said)
    found = await asyncio.gather(*(answer(engine, ask(letter)) for letter in "aqfmz"))
    assert [text for text, _ in found] == [alphabet.following(letter) for letter in "aqfmz"]
    await engine.close()


async def test_setting_without_a_name_at_llama_cpp_is_refused(engine: Any) -> None:
    with pytest.raises(NotSupported, match="no hidden"):
        await answer(engine, ask("x", output="hidden"))


# ── a start that fails ───────────────────────────────────────────────────────────────────────────


async def test_adapter_answers_where_a_request_or_the_card_names_it(
    make: Make, said: list[str], tmp_path: Path
) -> None:
    alphabet.make_adapter(tmp_path / "loud.gguf", "!")

    async def said_by(engine: Any, lora: str = "") -> str:
        greedy = Sampling(temperature=0.0)
        request = GenerationRequest(prompt="w", max_tokens=3, sampling=greedy, lora=lora)
        return (await answer(engine, request))[0]

    engine = await loaded(make(loras={"loud": "loud.gguf"}), said)
    try:
        assert [await said_by(engine, lora) for lora in ("", "loud", "")] == ["xyz", "!!!", "xyz"]
    finally:
        await engine.close()
    engine = await loaded(make(loras={"quiet": {"path": "loud.gguf", "scale": 0.0001}}, lora="quiet"), said)
    try:
        assert await said_by(engine) == "xyz"
    finally:
        await engine.close()
    with pytest.raises(ModelNotFound, match="the file of m's adapter gone"):
        await loaded(make(loras={"gone": "gone.gguf"}), said)


async def test_a_file_that_was_cut_is_named_with_the_reason(make: Make, said: list[str], tmp_path: Path) -> None:
    entry = make()
    os.truncate(tmp_path / "m.gguf", 400_000)
    with pytest.raises(LoadError, match=r"error loading model: .*not within the file bounds"):
        await loaded(entry, said)


async def test_unknown_argument_is_named_with_the_servers_reason(make: Make, said: list[str]) -> None:
    with pytest.raises(LoadError, match="exit code 1: error: invalid argument: --nonsense"):
        await loaded(make(arguments=["--nonsense"]), said)


async def test_load_without_memory_is_out_of_memory(make: Make, said: list[str], tmp_path: Path) -> None:
    """A shell sets the limit, then becomes the server; the context is what does not fit."""
    limited = tmp_path / "limited"
    limited.write_text(f'#!/bin/sh\nulimit -v 1500000\nexec {program()} "$@"\n')
    limited.chmod(0o755)
    with pytest.raises(OutOfMemory, match="failed to allocate"):
        await loaded(make(context=4_000_000, program=str(limited)), said)


# ── its end ──────────────────────────────────────────────────────────────────────────────────────


async def test_killed_fifty_times_amid_an_answer_the_next_request_works(make: Make) -> None:
    """By the dispatcher's own way: lost, made again with the next request."""
    engines: list[Any] = []
    entry = make()

    def made(model: Any) -> Any:
        engines.append(EngineRegistry().make(model, EngineHost(lambda _lines: None)))
        return engines[-1]

    dispatcher = Dispatcher(
        find=lambda _name: entry, engine=made, needs=lambda _model: ModelNeeds(), available=lambda: 1 << 40
    )
    for _ in range(50):
        struck = False
        with pytest.raises(RunnerLost, match="llama-server of m was killed by SIGKILL"):
            async with aclosing(dispatcher.generate(ask("!" * 300))) as events:
                async for event in events:
                    if isinstance(event, Piece) and not struck:
                        os.kill(engines[-1].pid, signal.SIGKILL)
                        struck = True
        found = [event.text async for event in dispatcher.generate(ask("w")) if isinstance(event, Piece)]
        assert "".join(found) == "xyz"
    await dispatcher.drain(5)
    for engine in engines:
        with pytest.raises(ProcessLookupError):
            os.kill(engine.pid, 0)


def test_server_dies_with_the_process_that_started_it(make: Make, tmp_path: Path) -> None:
    """Whatever ends the daemon, here SIGKILL, ends the server."""
    script = f"""
import asyncio, sys
from pathlib import Path
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.registry import EngineRegistry
from exo_rkllm.catalogue.card import Card, Weights
from exo_rkllm.catalogue.entry import Entry

async def main():
    card = Card("m", engine="llamacpp", context=256, weights=Weights("m.gguf"), options={{"program": {program()!r}}})
    engine = EngineRegistry().make(Entry(Path({str(tmp_path)!r}), card), EngineHost(lambda _lines: None))
    await engine.initialize()
    print(engine.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 20
    while time.monotonic() < until and alive(pid):
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    """A zombie that init has not collected is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
