"""Several conversations on one model: each is continued about as fast as a single one, and answered no differently."""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytest

from tests.daemon.running import Daemon, House

LONG = bool(os.environ.get("TESTS_LONG"))
# The vendor's speed takes 2.6 s to read 1,000 tokens; by default fewer are read faster.
WORDS = 300 if LONG else 100
SPEED: dict[str, Any] = {"speed": "rk3588/qwen2.5-1.5b"} if LONG else {"prefill_base_ms": 20, "prefill_tps": 1600}
CARD = 'base_model = "Qwen/Qwen2.5-1.5B-Instruct"\n[weights]\nfile = "m.rkllm"\n'
TURNS = 5 if LONG else 3
only_long = pytest.mark.skipif(not LONG, reason="TESTS_LONG=1 runs it")


class Turn(NamedTuple):
    """Seconds to the first token, and the prompt tokens that were computed for it."""

    seconds: float
    computed: int


def as_fast(turns: Sequence[Turn], alone: Sequence[Turn]) -> bool:
    """Time under a test suite's load tells little, so by default the tokens do."""
    computed = max(turn.computed for turn in turns) <= 1.3 * max(turn.computed for turn in alone)
    seconds = median(turn.seconds for turn in turns) <= 1.3 * median(turn.seconds for turn in alone)
    return computed and (seconds or not LONG)


class Conversation:
    """A client's history, which begins with words of its own."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self.url = f"http://{daemon.status()['listening'][0]}/v1/chat/completions"
        words = " ".join(f"{name}{number}" for number in range(WORDS))
        self.messages = [{"role": "user", "content": words}]

    def ask(self, text: str = "And then?") -> Turn:
        if len(self.messages) > 1:
            self.messages.append({"role": "user", "content": text})
        body = {"model": "talker", "messages": self.messages, "stream": True, "max_tokens": 24}
        body["stream_options"] = {"include_usage": True}
        request = urllib.request.Request(self.url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
        began, first, answer = time.monotonic(), 0.0, ""
        usage: dict[str, Any] = {}
        with urllib.request.urlopen(request, timeout=60) as lines:  # noqa: S310 - our own daemon
            for line in lines:
                chunk = json.loads(line[6:]) if line.startswith(b"data: {") else {"choices": []}
                if piece := _content(chunk):
                    first = first or time.monotonic() - began
                    answer += piece
                usage = chunk.get("usage") or usage
        self.messages.append({"role": "assistant", "content": answer})
        return Turn(first, usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"])


def _content(chunk: Any) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


@pytest.fixture
def talkers(board_house: House, make_model: Callable[..., Path], library: Callable[[str], Path]) -> House:
    board_house.environment["EXO_RKLLM_RUNTIME_LIBRARY"] = str(library("1.3.1"))
    board_house.add("talker", CARD)
    make_model(reply="Once more.", **SPEED).rename(board_house.models / "talker" / "m.rkllm")
    return board_house


def background(conversation: Conversation) -> None:
    """Open WebUI's questions after an answer: title, tags and follow-ups."""
    history = "\n".join(f"{one['role'].upper()}: {one['content']}" for one in conversation.messages[-6:])
    for task in ("a concise, 3-5 word title with an emoji", "1-3 broad tags", "3-5 relevant follow-up questions"):
        text = f"### Task:\nGenerate {task} for the chat history.\n### Chat History:\n<chat_history>\n{history}"
        body = {"model": "talker", "messages": [{"role": "user", "content": text}], "stream": False, "max_tokens": 50}
        request = urllib.request.Request(  # noqa: S310
            conversation.url, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own daemon
            assert answer.status == 200


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=[only_long])])
@pytest.mark.parametrize("release", ["1.3.1", pytest.param("1.2.3", marks=[only_long])])
def test_conversation_waits_as_long_as_a_single_one(
    talkers: House, library: Callable[[str], Path], release: str, count: int
) -> None:
    """Whatever displaces it meanwhile. Before 1.3.0 nothing can be saved after the answer, so each pays once."""
    talkers.environment["EXO_RKLLM_RUNTIME_LIBRARY"] = str(library(release))
    daemon, first = talkers.start(), 1 if release >= "1.3.0" else 2
    single = Conversation(daemon, "a")
    alone = [single.ask() for _ in range(TURNS)][1:]
    several = [Conversation(daemon, "bcde"[number]) for number in range(count)]
    turns = [[one.ask() for one in several] for _ in range(first + TURNS - 1)]
    assert all(as_fast(turn, alone) for turn in turns[first:]), (alone, turns)
    turns = []
    for _ in range(first + TURNS - 1):
        background(single)
        turns.append([single.ask()])
    assert all(as_fast(turn, alone) for turn in turns[first:]), (alone, turns)
    talkers.command("unload", "talker")
    assert single.ask().computed <= 1.3 * alone[-1].computed, "its end was saved for the next load"


class Chat:
    """Histories of one model, asked in any order, and left in the middle of an answer."""

    def __init__(self, daemon: Daemon, model: str) -> None:
        self.url = f"http://{daemon.status()['listening'][0]}/v1/chat/completions"
        self.model = model

    def answer(self, messages: list[dict[str, str]], *, leave: bool = False, **more: Any) -> str:
        body = {"model": self.model, "messages": messages, "stream": True, **more}
        request = urllib.request.Request(self.url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
        answer = ""
        with urllib.request.urlopen(request, timeout=60) as lines:  # noqa: S310 - our own daemon
            for line in lines:
                if line.startswith(b"data: {"):
                    answer += _content(json.loads(line[6:]))
                if leave and answer:
                    break
        return answer


def histories(count: int) -> list[list[dict[str, str]]]:
    """Two system prompts, so that some conversations share a beginning."""
    return [
        [
            {"role": "system", "content": f"Rules {number % 2}: " + "be brief and kind. " * 6},
            {"role": "user", "content": " ".join(f"{'abcdefgh'[number]}{word}" for word in range(20))},
        ]
        for number in range(count)
    ]


@pytest.mark.parametrize("release", ["1.2.3", pytest.param("1.3.1", marks=[only_long])])
def test_answers_are_those_of_a_fresh_prefill(
    board_house: House, make_model: Callable[..., Path], library: Callable[[str], Path], release: str
) -> None:
    """An answer tells what it was computed on, so that one from another conversation's values differs. Loading a file
    after an abort crashes 1.2.3."""
    board_house.environment["EXO_RKLLM_RUNTIME_LIBRARY"] = str(library(release))
    for name, card in (("talker", CARD), ("fresh", f"reuse = false\n{CARD}")):
        board_house.add(name, card)
        model = make_model(reply="On {cache} I say: yes, and no, and so on.", prefill_tps=900, decode_tps=1000)
        model.rename(board_house.models / name / "m.rkllm")
    daemon = board_house.start()
    kept, fresh, dice = Chat(daemon, "talker"), Chat(daemon, "fresh"), random.Random(release)
    talks = histories(4)
    for step in range(300 if LONG else 9):
        messages, fate = (talks[step % 2], 1.0) if step < 4 else (dice.choice(talks), dice.random())
        if fate < 0.15:
            kept.answer(messages, leave=True)
        elif fate < 0.3:  # asked again, and cut short
            limit = dice.randrange(1, 9)
            assert kept.answer(messages, max_tokens=limit) == fresh.answer(messages, max_tokens=limit)
        else:
            answer = kept.answer(messages)
            assert answer == fresh.answer(messages)
            if len(messages) > 9:
                del messages[2:]
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": f"And {fate}?"}]
    status = {model["name"]: model for model in daemon.status()["models"]}
    assert not status["talker"]["error"], daemon.text
    assert status["talker"]["prefixes"]["restored"] and not status["fresh"]["prefixes"]["saved"], status


def test_kill_at_any_moment_leaves_no_half_file_in_use(
    board_house: House, make_model: Callable[..., Path], library: Callable[[str], Path]
) -> None:
    """Memory for few conversations only, so that files are written, moved to disk and removed all the time."""
    board_house.environment |= {
        "EXO_RKLLM_RUNTIME_LIBRARY": str(library("1.3.1")),
        "EXO_RKLLM_CACHE_MEMORY": "60 MB",
        "EXO_RKLLM_CACHE_DISK": "60 MB",
    }
    board_house.add("talker", CARD)
    model = make_model(reply="On {cache} I say yes.", prefill_tps=900, kv_heads=16)
    model.rename(board_house.models / "talker" / "m.rkllm")
    talks, dice = histories(3), random.Random(9)
    expected: dict[int, str] = {}
    saved = 0
    for _ in range(40 if LONG else 2):
        daemon = board_house.start()
        for folder in board_house.folder.rglob("prefixes"):
            kept = {kind: {path.stem for path in folder.glob(f"*{kind}")} for kind in (".kv", ".json")}
            assert kept[".kv"] == kept[".json"]
            assert len(list(folder.iterdir())) == 2 * len(kept[".kv"])
            saved += len(kept[".kv"])
        chat = Chat(daemon, "talker")
        expected = expected or {number: chat.answer(talk) for number, talk in enumerate(talks)}
        killer = threading.Timer(dice.uniform(0.1, 0.8), daemon.process.kill)
        killer.start()
        with suppress(OSError, http.client.HTTPException):
            for step in range(1000):
                answer = chat.answer(talks[step % 3])
                if answer.endswith("yes."):
                    assert expected[step % 3] == answer
        killer.join()
        daemon.process.wait()
    assert saved
