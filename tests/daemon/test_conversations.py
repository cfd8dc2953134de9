"""Several conversations on one model: each is continued about as fast as a single one, and answered no differently."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.daemon.running import Daemon, House

LONG = bool(os.environ.get("TESTS_LONG"))
# The vendor's speed takes 2.6 s to read 1,000 tokens of this model; by default four times that.
SPEED: dict[str, Any] = {"speed": "rk3588/qwen2.5-1.5b"} if LONG else {"prefill_base_ms": 20, "prefill_tps": 1600}
CARD = 'base_model = "Qwen/Qwen2.5-1.5B-Instruct"\n[weights]\nfile = "m.rkllm"\n'
TURNS = 3


class Conversation:
    """A client's history, which begins with about 1,000 tokens of its own."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self.url = f"http://{daemon.status()['listening'][0]}/v1/chat/completions"
        words = " ".join(f"{name}{number}" for number in range(150))
        self.messages = [{"role": "user", "content": words}]

    def ask(self, text: str = "And then?") -> float:
        """Seconds to the first token of the next turn."""
        if len(self.messages) > 1:
            self.messages.append({"role": "user", "content": text})
        body = {"model": "talker", "messages": self.messages, "stream": True, "max_tokens": 24}
        request = urllib.request.Request(self.url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
        began, first, answer = time.monotonic(), 0.0, ""
        with urllib.request.urlopen(request, timeout=60) as lines:  # noqa: S310 - our own daemon
            for line in lines:
                if line.startswith(b"data: {") and (piece := _content(json.loads(line[6:]))):
                    first = first or time.monotonic() - began
                    answer += piece
        self.messages.append({"role": "assistant", "content": answer})
        return first


def _content(chunk: Any) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


@pytest.fixture
def talkers(board_house: House, make_model: Callable[..., Path], library: Callable[[str], Path]) -> House:
    board_house.environment["EXO_RKLLM_RUNTIME_LIBRARY"] = str(library("1.3.1"))
    board_house.add("talker", CARD)
    make_model(reply="Once more.", **SPEED).rename(board_house.models / "talker" / "m.rkllm")
    return board_house


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.skipif(not LONG, reason="long"))])
def test_conversations_in_turn_wait_no_longer_than_a_single_one(talkers: House, count: int) -> None:
    daemon = talkers.start()
    single = Conversation(daemon, "a")
    alone = [single.ask() for _ in range(TURNS)]
    several = [Conversation(daemon, "bcde"[number]) for number in range(count)]
    turns = [[one.ask() for one in several] for _ in range(TURNS)]
    base = median(alone[1:])
    assert all(median(turn) <= 1.3 * base for turn in turns[1:]), (alone, turns)
