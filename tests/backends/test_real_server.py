"""The `openai` engine and a real server of that API: llama.cpp's, with a key, as on another machine."""

from __future__ import annotations

import asyncio
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from exo_rkllm.backends.base import Finish, GenerationRequest, Image, Message, Piece, Sampling, Tool, ToolCall
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.llamacpp import free_port
from exo_rkllm.backends.registry import EngineRegistry
from exo_rkllm.catalogue.card import Card
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.errors import ContextOverflow, LoadError, ModelNotFound, NotSupported, RunnerLost
from tests.backends import alphabet
from tests.backends.llama_programs import MISSING, program
from tests.backends.test_llama_server import answer, ask

KEY = "sesam"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    alphabet.make(folder / "m.gguf")
    (folder / "key").write_text(f"{KEY}\n")
    return folder


class Server:
    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        flags = {"-m": folder / "m.gguf", "--host": "127.0.0.1", "--port": self.port, "--alias": "letters"}
        flags |= {"--api-key": KEY, "-c": 512, "--parallel": 1, "-t": 1}
        command = [str(program()), *(str(word) for pair in flags.items() for word in pair), "--jinja"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ends = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < ends:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                return
            time.sleep(0.1)
        self.end()
        pytest.fail(f"{program()} did not come up")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    if program() is None:
        pytest.skip(MISSING)
    one = Server(folder)
    yield one
    one.end()


def far(folder: Path, server: Server, **options: Any) -> Entry:
    held = {"base_url": f"http://127.0.0.1:{server.port}/v1", "key": str(folder / "key"), **options}
    return Entry(folder, Card("far", engine="openai", options=held))


async def loaded(entry: Entry) -> Any:
    engine = EngineRegistry().make(entry, EngineHost(lambda _lines: None))
    await engine.initialize()
    return engine


@pytest_asyncio.fixture
async def engine(folder: Path, server: Server) -> AsyncIterator[Any]:
    engine = await loaded(far(folder, server))
    yield engine
    await engine.close()


async def test_server_answers_and_counts(engine: Any) -> None:
    text, finish = await answer(engine, ask("Say:f"))
    assert text == alphabet.following("f")
    assert finish.reason == "stop"
    assert finish.usage.prompt == len("Say:f") + 1
    assert finish.usage.completion == len(text) + 1


async def test_server_honours_limits_stop_strings_and_prompts(engine: Any) -> None:
    text, finish = await answer(engine, ask("a", max_tokens=3))
    assert (text, finish.reason, finish.usage.completion) == ("bcd", "length", 3)
    text, finish = await answer(engine, ask("a", stop=("gh",)))
    assert (text, finish.reason) == ("bcdef", "stop")
    assert (await answer(engine, GenerationRequest(prompt="x", sampling=Sampling(temperature=0.0))))[0] == "yz"


async def test_server_takes_settings_and_tools(engine: Any) -> None:
    sampling = Sampling(
        temperature=0.1, top_k=1, top_p=0.9, repeat_penalty=1.0, frequency_penalty=0.1, presence_penalty=0.1, seed=7
    )
    assert (await answer(engine, GenerationRequest(messages=(Message("user", "x"),), sampling=sampling)))[0] == "yz"
    tool = Tool("look", "looks", {"type": "object", "properties": {"n": {"enum": [7]}}})
    call = Message("assistant", tool_calls=(ToolCall("c", "look", '{"n": 7}'),))
    talk = (Message("user", "?"), call, Message("tool", "w", tool_call_id="c", name="look"))
    request = GenerationRequest(messages=talk, tools=(tool,), sampling=Sampling(temperature=0.0))
    text, finish = await answer(engine, request)
    assert text == "xyz"
    assert finish.usage.prompt > 100, "tool and call are in the prompt"


async def test_refusal_is_told_in_the_servers_words_and_the_next_request_works(engine: Any) -> None:
    with pytest.raises(ContextOverflow):
        await answer(engine, ask("a" * 900))
    picture = Message("user", "w", images=(Image(b"\x89PNG\r\n\x1a\n", "image/png"),))
    with pytest.raises(NotSupported, match="takes no images: image input is not supported"):
        await answer(engine, GenerationRequest(messages=(picture,)))
    assert (await answer(engine, ask("w")))[0] == "xyz"


async def test_leaving_early_and_aborting_free_its_only_place(engine: Any) -> None:
    async with aclosing(engine.generate(ask("!"))) as events:
        async for event in events:
            if isinstance(event, Piece):
                break
    request, found = ask("!"), []
    async for event in engine.generate(request):
        found.append(event)
        if isinstance(event, Piece):
            await engine.abort(request.id)
    assert found[-1] == Finish("abort")
    assert (await answer(engine, ask("w")))[0] == "xyz"


async def test_runs_together_are_never_mixed(engine: Any) -> None:
    found = await asyncio.gather(*(answer(engine, ask(letter)) for letter in "aqfmz"))
    assert [text for text, _ in found] == [alphabet.following(letter) for letter in "aqfmz"]


async def test_a_wrong_key_and_a_wrong_name_are_called_so(folder: Path, server: Server, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("knock")
    with pytest.raises(LoadError, match="refuses the key: Invalid API Key"):
        await loaded(far(folder, server, key=str(tmp_path / "wrong")))
    with pytest.raises(ModelNotFound, match="no model numbers") as caught:
        await loaded(far(folder, server, model="numbers"))
    assert "letters" in caught.value.hint


async def test_server_that_dies_ends_the_answer_with_an_error(folder: Path, server: Server) -> None:
    other = Server(folder)
    engine = await loaded(far(folder, other))
    with pytest.raises(RunnerLost):
        async with aclosing(engine.generate(ask("!" * 300))) as events:
            async for event in events:
                if isinstance(event, Piece):
                    other.end()
    other.end()
    await engine.close()
