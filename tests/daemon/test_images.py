"""A text model on the NPU is shown an image: a refusal in each API's own shape, and nothing of it reaches the model."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.running import House

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\nnot much of one").decode()
ELSEWHERE = "https://example.org/cat.png"
BLIND = "qwen does not see images. Ask without images, or use a model that does."


def openai(url: str) -> dict[str, Any]:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"messages": [{"role": "user", "content": parts}]}


def anthropic(source: dict[str, str]) -> dict[str, Any]:
    blocks = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    return {"max_tokens": 9, "messages": [{"role": "user", "content": blocks}]}


def responses(url: str) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]}


DATA = f"data:image/png;base64,{PIXEL}"
PARTS = [{"type": "input_image", "image_url": DATA}]
HERE = anthropic({"type": "base64", "media_type": "image/png", "data": PIXEL})
OLLAMA = {"messages": [{"role": "user", "content": "What is this?", "images": [PIXEL]}]}
ASKED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("/v1/chat/completions", openai(DATA), BLIND),
    ("/v1/chat/completions", openai(ELSEWHERE), "No image is fetched from outside"),
    ("/v1/responses", responses(DATA), BLIND),
    ("/v1/responses", responses(ELSEWHERE), "No image is fetched from outside"),
    ("/v1/responses", {"input": [{"type": "function_call_output", "call_id": "c", "output": PARTS}]}, BLIND),
    ("/api/chat", OLLAMA, BLIND),
    ("/api/generate", {"prompt": "What is this?", "images": [PIXEL]}, BLIND),
    ("/v1/messages", HERE, BLIND),
    ("/v1/messages", anthropic({"type": "url", "url": ELSEWHERE}), "No image is fetched from outside"),
)


def refused(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(f"http://{address}{path}", json.dumps({"model": "qwen", **body}).encode())
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)  # noqa: S310 - our own daemon
    with caught.value as error:
        assert error.code == 400
        assert error.headers["Content-Type"].startswith("application/json")
        said: dict[str, Any] = json.load(error)
    return said


def test_each_api_refuses_in_its_own_words(board_house: House, make_model: Callable[..., Path]) -> None:
    board_house.simulated("qwen", make_model, reply="I see", template="none")
    daemon = board_house.start()
    address = daemon.status()["listening"][0]
    for path, body, says in ASKED:
        for stream in (False, True):
            said = refused(address, path, {**body, "stream": stream})
            if path.startswith("/api/"):
                assert list(said) == ["error"]
                sentence = said["error"]
            else:
                error = said["error"]
                sentence = error["message"]
                assert error["type"] == "invalid_request_error"
                if path == "/v1/messages":
                    assert said["type"] == "error" and said["request_id"]
                else:
                    assert {"param", "code"} <= error.keys()
            assert says in sentence, path
    assert " tokens in " not in daemon.text, "no run was begun"
    assert daemon.answer("qwen", "hi") == "I see"
