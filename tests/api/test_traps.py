"""What went wrong in the servers that others wrote for these boards; each trap is a test here."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from tests.api.test_serving import ask, post
from tests.api.world import World

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\nnot much of one").decode()


async def streamed(server: World, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with server.http.post(f"{server.url}/v1/chat/completions", json={**body, "stream": True}) as response:
        return [json.loads(line[6:]) async for line in response.content if line.startswith(b"data: {")]


async def test_embeddings_are_the_models_and_not_random(server: World) -> None:
    vectors = []
    for text in ("one text", "one text", "other words"):
        _, said, _ = await post(server, "/v1/embeddings", {"model": "qwen", "input": text})
        vectors.append(said["data"][0]["embedding"])
    assert vectors[0] == vectors[1] != vectors[2]


async def test_an_answer_that_pauses_is_not_cut(server: World) -> None:
    """A queue that is empty for an instant was taken for the end."""
    said = "a sentence of many pieces that come one by one"
    chunks = await streamed(server, ask(said, "slow"))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == said


async def test_a_stop_string_over_several_pieces_ends_a_stream_without_a_trace(server: World) -> None:
    chunks = await streamed(server, ask("one two END three", stop=["END"]))
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == "one two "


async def test_tags_over_several_pieces_never_show(server: World) -> None:
    for chunk in await streamed(server, ask("«<think>\nhm\n</think>\n\nanswer»", "thinker")):
        assert "think" not in json.dumps(chunk["choices"][0]["delta"])


async def test_ollama_counts_are_never_null(server: World) -> None:
    """Clients divided by them."""
    for model in ("qwen", "dummy"):
        _, said, _ = await post(server, "/api/generate", {"model": model, "prompt": "hi", "stream": False})
        for field in ("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count"):
            assert isinstance(said[field], int), field
        _, said, _ = await post(server, "/v1/chat/completions", ask(model=model))
        assert said["usage"]["total_tokens"] > 0


async def test_temperature_and_limits_reach_the_engine(server: World) -> None:
    """Peers took them and forgot them."""
    wanted: dict[str, Any] = {
        "temperature": 0.3,
        "top_p": 0.8,
        "top_k": 7,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
    }
    await post(server, "/v1/chat/completions", ask(**wanted, max_tokens=9))
    seen = server.ledger.requests[-1]
    assert {name: getattr(seen.sampling, name) for name in wanted} == wanted and seen.max_tokens == 9
    options = {**wanted, "repeat_penalty": 1.2, "num_predict": 9, "mirostat": 2, "mirostat_tau": 4.0, "stop": "x"}
    await post(server, "/api/generate", {"model": "qwen", "prompt": "hi", "options": options, "stream": False})
    seen = server.ledger.requests[-1]
    assert (seen.sampling.repeat_penalty, seen.sampling.mirostat, seen.max_tokens) == (1.2, 2, 9)
    assert seen.sampling.temperature == 0.3 and "x" in seen.stop


async def test_a_model_without_eyes_refuses_an_image_instead_of_guessing(server: World) -> None:
    picture: dict[str, Any] = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    content = [{"type": "text", "text": "what is this?"}, picture]
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": content}]}),
        ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": [block]}]}),
        ("/api/chat", {"messages": [{"role": "user", "content": "what?", "images": [PIXEL]}], "stream": False}),
        ("/api/generate", {"prompt": "what?", "images": [PIXEL], "stream": False}),
        (
            "/v1/responses",
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_image", "image_url": picture["image_url"]["url"]}]}
                ]
            },
        ),
    ]
    for path, body in asked:
        status, said, _ = await post(server, path, {"model": "qwen", **body})
        assert status == 400 and "does not see images" in json.dumps(said), path
        assert (await post(server, path, {"model": "seer", **body}))[0] == 200, path
    assert server.ledger.begun == len(asked)


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest", "file:///etc/passwd", "data:text/html;base64,AA", "x"]
)
async def test_no_image_is_ever_fetched(server: World, url: str) -> None:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    status, said, _ = await post(server, "/v1/chat/completions", ask(content, "seer"))  # type: ignore[arg-type]
    assert status == 400 and said["error"]["param"] == "messages[0].content[0].image_url.url"
    content[0]["image_url"]["url"] = "data:image/png;base64,@@@"  # type: ignore[index]
    assert "is not base64" in (await post(server, "/v1/chat/completions", ask(content, "seer")))[1]["error"]["message"]  # type: ignore[arg-type]


async def test_loopback_accepts_any_key(server: World) -> None:
    for header in ({"Authorization": "Bearer sk-1234"}, {"x-api-key": "any"}, {"Authorization": "Basic eDp5"}, {}):
        assert (await post(server, "/v1/chat/completions", ask(), **header))[0] == 200


async def test_a_burst_from_one_client_does_not_starve_another(server: World) -> None:
    order: list[str] = []

    async def one(name: str, number: int) -> None:
        await post(server, "/v1/chat/completions", ask(f"{name} {number}", "slow"), Authorization=f"Bearer {name}")
        order.append(name)

    many = [asyncio.create_task(one("greedy", number)) for number in range(6)]
    await asyncio.sleep(0.05)
    await asyncio.gather(one("modest", 0), *many)
    assert order.index("modest") <= 2
