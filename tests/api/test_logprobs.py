"""Log probabilities of completions and chats, from one more run that reads the logits."""

from __future__ import annotations

import array
import dataclasses
import math
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from exo_rkllm.api.openai.logprobs import MOST_TOKENS
from exo_rkllm.backends.base import (
    Array,
    Finish,
    GenerationEvent,
    GenerationRequest,
    Logprobs,
    Piece,
    TokenLogprob,
    Usage,
)
from tests.api import world
from tests.api.test_serving import post
from tests.api.world import Scripted, World
from tests.words import write_tokenizer

VOCABULARY = 6
LIKELY, UNLIKELY = math.log(math.e / (math.e + VOCABULARY - 1)), math.log(1 / (math.e + VOCABULARY - 1))


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that expects behind every token the next number, and answers with 4 and 5; rows come in two parts."""

    async def generate(engine: Scripted, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        engine.ledger.requests.append(request)
        if request.output == "logits":
            tokens = list(request.tokens or ())[-request.rows :]
            rows = [[float(column == token + 1) for column in range(VOCABULARY)] for token in tokens]
            for part in (rows[:1], rows[1:]):
                values = array.array("f", [value for row in part for value in row])
                yield Array("logits", len(part), VOCABULARY, memoryview(values).cast("B"))
            yield Finish("stop", Usage(len(tokens)))
            return
        for token in (4, 5)[: request.max_tokens]:
            yield Piece(f" {token}", token)
        yield Finish("length", Usage(len(request.tokens or ()), 0, min(2, request.max_tokens or 2)))

    monkeypatch.setattr(Scripted, "generate", generate)


async def choice(server: World, **body: Any) -> Any:
    status, said, headers = await post(server, "/v1/completions", {"model": "qwen", **body})
    assert status == 200, said
    return {**said["choices"][0], "ignored": headers.get("X-Ignored-Fields", "")}


async def test_loglikelihood_of_a_text_is_scored_without_an_answer(server: World) -> None:
    body = {"prompt": [[1, 2, 5]], "echo": True, "logprobs": 1, "temperature": 0}
    for longest in (0, 1):
        scores = (await choice(server, **body, max_tokens=longest))["logprobs"]
        assert scores["tokens"][:3] == ["token_id:1", "token_id:2", "token_id:5"]
        assert scores["token_logprobs"][0] is None
        assert scores["token_logprobs"][1:3] == pytest.approx([LIKELY, UNLIKELY])
        assert scores["top_logprobs"][1] == {"token_id:2": pytest.approx(LIKELY)}
        assert scores["top_logprobs"][2] == {"token_id:3": pytest.approx(LIKELY)}
        assert len(scores["tokens"]) == 3 + longest
        assert scores["text_offset"][1] == len("token_id:1")
    assert [request.output for request in server.ledger.requests] == ["logits", "text", "logits"]


async def test_answers_tokens_are_scored_behind_the_prompt(server: World) -> None:
    found = await choice(server, prompt=[1, 3], logprobs=2, max_tokens=2)
    assert found["text"] == " 4 5"
    assert found["logprobs"]["token_logprobs"] == pytest.approx([LIKELY, LIKELY])
    assert [len(top) for top in found["logprobs"]["top_logprobs"]] == [2, 2]
    assert server.ledger.requests[-1].tokens == (1, 3, 4, 5) and server.ledger.requests[-1].rows == 3


async def test_text_is_scored_with_the_models_tokenizer(server: World) -> None:
    write_tokenizer(server.folder / "qwen", "zero", " one", " two", " three", " four", " five")
    scores = (await choice(server, prompt="zero one", echo=True, logprobs=1, max_tokens=0))["logprobs"]
    assert scores["tokens"] == ["zero", " one"]
    assert scores["token_logprobs"][1] == pytest.approx(LIKELY)


async def test_scores_that_cannot_be_had_are_named_beside_an_answer_and_refused_with_echo(server: World) -> None:
    found = await choice(server, prompt="one", logprobs=1, max_tokens=2)
    assert (found["text"], found["logprobs"], found["ignored"]) == (" 4 5", None, "logprobs")
    body = {"model": "qwen", "prompt": "one", "logprobs": 1, "echo": True, "max_tokens": 1}
    status, said, _ = await post(server, "/v1/completions", body)
    assert status == 400 and "has no tokenizer here" in said["error"]["message"]
    body["prompt"] = [1] * (MOST_TOKENS + 1)
    status, said, _ = await post(server, "/v1/completions", body)
    assert status == 400 and f"{MOST_TOKENS} are possible" in said["error"]["message"]
    async with server.http.post(
        f"{server.url}/v1/completions", json={"model": "qwen", "prompt": [1], "logprobs": 1, "stream": True}
    ) as response:
        assert response.headers["X-Ignored-Fields"] == "logprobs"


async def test_rows_that_are_missing_are_told(server: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def last_row_only(engine: Scripted, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        yield Array("logits", 1, VOCABULARY, memoryview(array.array("f", [0.0] * VOCABULARY)).cast("B"))
        yield Finish("stop", Usage(3))

    monkeypatch.setattr(Scripted, "generate", last_row_only)
    body = {"model": "qwen", "prompt": [1, 2, 3], "logprobs": 1, "echo": True, "max_tokens": 0}
    status, said, _ = await post(server, "/v1/completions", body)
    assert status == 400 and "returned the logits of 1 tokens, and 3 are needed" in said["error"]["message"]


async def test_one_token_has_nothing_before_it(server: World) -> None:
    assert (await choice(server, prompt=[1], logprobs=1, echo=True, max_tokens=0))["logprobs"] is None


# ── of a chat ────────────────────────────────────────────────────────────────────────────────────

ASKED = {"model": "qwen", "messages": [{"role": "user", "content": "three"}]}


async def test_chats_tokens_are_scored_when_the_answer_is_finished(server: World) -> None:
    write_tokenizer(server.folder / "qwen", "zero", " one", " two", " three", " 4", " 5")
    _, said, headers = await post(server, "/v1/chat/completions", {**ASKED, "logprobs": True, "top_logprobs": 2})
    assert "X-Ignored-Fields" not in headers
    first, second = said["choices"][0]["logprobs"]["content"]
    assert (first["token"], first["logprob"], first["bytes"]) == (" 4", pytest.approx(UNLIKELY), [32, 52])
    assert (second["token"], second["logprob"]) == (" 5", pytest.approx(LIKELY))
    assert second["top_logprobs"][0] == {"token": " 5", "logprob": pytest.approx(LIKELY), "bytes": [32, 53]}
    assert len(second["top_logprobs"]) == 2
    scored = server.ledger.requests[-1]
    assert (scored.output, scored.rows, (scored.tokens or ())[-2:]) == ("logits", 3, (4, 5))
    _, said, _ = await post(server, "/api/chat", {**ASKED, "stream": False, "logprobs": True})
    assert [token["token"] for token in said["logprobs"]] == [" 4", " 5"]


async def test_chat_without_scores_is_answered_all_the_same(server: World) -> None:
    for path in ("/v1/chat/completions", "/api/chat"):
        for stream in (False, True):
            ask = {**ASKED, "logprobs": True, "stream": stream}
            async with server.http.post(f"{server.url}{path}", json=ask) as response:
                assert response.status == 200
                assert response.headers["X-Ignored-Fields"] == "logprobs"
    _, said, headers = await post(server, "/v1/chat/completions", {**ASKED, "logprobs": False, "top_logprobs": 5})
    assert said["choices"][0]["logprobs"] is None and "X-Ignored-Fields" not in headers


async def test_engine_that_tells_scores_itself_is_asked_for_them(
    server: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def telling(engine: Scripted, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        engine.ledger.requests.append(request)
        yield Piece("Hi")
        yield Logprobs((TokenLogprob("Hi", -0.5, (("Hi", -0.5), ("Ho", -1.5))),))
        yield Finish("stop", Usage(1, 0, 1))

    monkeypatch.setattr(Scripted, "generate", telling)
    monkeypatch.setattr(world, "SCRIPTED", dataclasses.replace(world.SCRIPTED, logprobs=True))
    _, said, _ = await post(server, "/v1/chat/completions", {**ASKED, "logprobs": True, "top_logprobs": 40})
    (token,) = said["choices"][0]["logprobs"]["content"]
    assert [one["token"] for one in token["top_logprobs"]] == ["Hi", "Ho"]
    assert [request.logprobs for request in server.ledger.requests] == [20], "and no second run"
