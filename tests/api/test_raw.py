"""Bad input as bytes on a bare socket: a 4xx of the right shape, and nothing lost or touched beside it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.api.context import ApiServerSettings
from exo_rkllm.config import ApiSettings
from tests.api.test_serving import LAN, ask, post, raw
from tests.api.world import CARDS, World, world

CHAT, OLLAMA, ANTHROPIC = "/v1/chat/completions", "/api/chat", "/v1/messages"
QUESTIONS = (CHAT, OLLAMA, ANTHROPIC)
TALK = json.dumps(ask(max_tokens=5))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def said(self) -> Any:
        return json.loads(self.body)


def request(
    path: str, body: bytes = b"", *, method: str = "POST", headers: Iterable[str] = (), length: int | None = None
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(path: str, *chunks: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


async def sent(server: World, data: bytes) -> Answer:
    """Everything until the server closes."""
    got = await raw(server, data, seconds=10)
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    assert first.startswith("HTTP/1."), got[:200]
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split()[1]), headers, body)


def is_refusal(answer: Answer, path: str) -> None:
    """In the shape of the API that was asked, with a sentence."""
    assert 400 <= answer.status < 500, answer
    said = answer.said
    if path.startswith("/api/"):
        assert isinstance(said["error"], str)
        sentence = said["error"]
    else:
        assert isinstance(said["error"]["type"], str)
        sentence = said["error"]["message"]
        assert (said.get("type") == "error") == path.startswith("/v1/messages")
    assert sentence
    assert "Traceback" not in sentence


def wrong(**fields: Any) -> bytes:
    return json.dumps({**ask(max_tokens=5), **fields}).encode()


DEEP = b"[" * 50_000
BODIES: Mapping[str, bytes] = {
    "nothing": b"",
    "half": TALK[: len(TALK) // 2].encode(),
    "two objects": TALK.encode() * 2,
    "invalid UTF-8": TALK.encode().replace(b"hi", b"\xff\xfe\xc0\x80"),
    "UTF-16": TALK.encode("utf-16"),
    "half a character": TALK.encode().replace(b'"hi"', b'"\xe2\x82"'),
    "half a surrogate pair": TALK.encode().replace(b"hi", rb"\ud83d"),
    "a NUL": TALK.encode().replace(b"hi", rb"h\u0000i"),
    "a raw control character": TALK.encode().replace(b"hi", b"h\x01i"),
    "a number without end": TALK.encode().replace(b"5", b"9" * 10_000),
    "no end of brackets": TALK.encode().replace(b'"hi"', DEEP),
    "a form": b"model=qwen&messages=hi",
    "a list": b"[1, 2]",
    "a string": b'"qwen"',
    "messages: a number": wrong(messages=3),
    "messages: a list of numbers": wrong(messages=[3]),
    "messages: a list of null": wrong(messages=[None]),
    "messages: content is an object": wrong(messages=[{"role": "user", "content": {"a": 1}}]),
    "messages: a role of one's own": wrong(messages=[{"role": "emperor", "content": "hi"}]),
    "model: a number": wrong(model=3),
    "model: a list": wrong(model=["qwen"]),
    "model: null": wrong(model=None),
    "model: empty": wrong(model=""),
    "stream: a string": wrong(stream="yes"),
    "tools: an object": wrong(tools={"a": 1}),
    "tools: a list of strings": wrong(tools=["a"]),
}


@pytest.mark.parametrize("what", BODIES)
@pytest.mark.parametrize("path", QUESTIONS)
async def test_senseless_body_is_refused_in_the_apis_shape(server: World, path: str, what: str) -> None:
    is_refusal(await sent(server, request(path, BODIES[what])), path)
    is_refusal(await sent(server, chunked(path, BODIES[what][:7], BODIES[what][7:]) if BODIES[what][7:] else
                          request(path)), path)  # fmt: skip
    assert server.ledger.begun == 0


# What each API calls its fields, and values that none of them takes.
FIELDS: Mapping[str, tuple[str, ...]] = {
    CHAT: ("max_tokens", "temperature", "top_p", "stop"),
    OLLAMA: ("num_predict", "temperature", "top_p", "stop"),
    ANTHROPIC: ("max_tokens", "temperature", "top_p", "stop_sequences"),
}


@pytest.mark.parametrize(("path", "field"), [(path, field) for path, fields in FIELDS.items() for field in fields])
async def test_value_of_the_wrong_type_is_refused(server: World, path: str, field: str) -> None:
    for value in ({"a": 1}, True, 1e300, [[1]]):
        body = wrong(options={field: value}) if path == OLLAMA else wrong(**{field: value})
        is_refusal(await sent(server, request(path, body)), path)
    assert server.ledger.begun == 0


# ── names that are paths ─────────────────────────────────────────────────────────────────────────

UP = ["{}", "qwen/../{}", "./{}", "qwen:../{}", "{}/model.toml", "qwen\\..\\{}"]


@pytest.mark.parametrize("name", [*UP, "/etc/passwd", "..", ".", "~", "%2e%2e%2f", "..%00", "\u2025/\u2025"])
async def test_model_name_cannot_be_a_path(tmp_path: Path, name: str) -> None:
    """The models folder of somebody else lies beside ours, and stays as it is and unread."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "model.toml").write_text('id = "theirs"\nengine = "scripted"\ncontext = 4096\n[chat]\nsystem = "sesam"\n')
    async with world(settings=LAN) as server:
        up = "/".join([".."] * (len(server.folder.parts) - 1))
        said = name.format(up + str(theirs))
        key = ["Authorization: Bearer sesame"]
        body = json.dumps({**ask(max_tokens=5), "model": said, "name": said, "prompt": "hi", "input": "hi"}).encode()
        paths = (*QUESTIONS, "/v1/completions", "/v1/embeddings", "/v1/responses", "/api/generate", "/api/embed",
                 "/api/show", "/api/pull")  # fmt: skip
        answers = [(path, await sent(server, request(path, body, headers=key))) for path in paths]
        answers.append(("/api/delete", await sent(server, request("/api/delete", body, method="DELETE", headers=key))))
        escaped = "".join(f"%{byte:02x}" for byte in said.encode())
        plain = said.encode("ascii", "replace").decode()
        for method, path in (
            ("GET", f"/v1/models/{escaped}"),
            ("GET", f"/v1/models/{plain}"),
            ("POST", f"/v1/models/{escaped}/load"),
            ("POST", f"/v1/models/{escaped}/unload"),
        ):
            answers.append((path, await sent(server, request(path, b"{}", method=method, headers=key))))
        for path, answer in answers:
            if path.startswith("/v1/models/") and name == "." and answer.status == 200:
                continue  # clients and servers take `.` out of a path: it is the list of models
            is_refusal(answer, path)
            assert b"sesam" not in answer.body
        assert server.ledger.begun == 0
        assert {entry.id for entry in server.catalogue.list()} == set(CARDS)
        assert not list(server.folder.glob(".*"))
    assert below(tmp_path) == [theirs, theirs / "model.toml"]


def below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize(
    "path", ["/../etc/passwd", "/page/page.css/../../x", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd"]
)
async def test_url_cannot_climb_out_of_the_daemon(server: World, path: str) -> None:
    answer = await sent(server, request(path, method="GET"))
    assert 400 <= answer.status < 500
    assert b"root:" not in answer.body


# ── headers ──────────────────────────────────────────────────────────────────────────────────────

EVIL = "x\r\nSet-Cookie: a=b"


async def test_client_cannot_inject_headers(server: World) -> None:
    key = EVIL.replace("\r\n", "\\r\\n")
    cases = [
        request(CHAT, TALK.encode(), headers=[f"X-Request-Id: {EVIL}"]),
        request(CHAT, TALK.encode(), headers=["X-Request-Id: x\rSet-Cookie: a=b"]),
        request(CHAT, TALK.encode(), headers=["X-Request-Id: x\nSet-Cookie: a=b"]),
        request(CHAT, TALK.encode(), headers=["X-Request-Id: x\x00Set-Cookie: a=b"]),
        request(CHAT, f'{{"{key}": 1, {TALK[1:]}'.encode()),
        request(CHAT, wrong(model=EVIL)),
        request(CHAT, wrong(stream=True, model=f"qwen{EVIL}")),
        request("/v1/models/x%0d%0aSet-Cookie:%20a=b", method="GET"),
        request("/x%0d%0aSet-Cookie:%20a=b", method="GET"),
        request(
            CHAT,
            method="OPTIONS",
            headers=[
                "Origin: http://localhost",
                "Access-Control-Request-Method: POST",
                "Access-Control-Request-Headers: x%0d%0aSet-Cookie: a=b",
            ],
        ),
    ]
    for data in cases:
        answer = await sent(server, data)
        assert answer.status < 500, data
        assert "set-cookie" not in answer.headers, data


@pytest.mark.parametrize(
    "head",
    [
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1e3\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nno colon here\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX: " + "a" * 100_000 + "\r\n\r\n",
        "POST /" + "a" * 100_000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /v1/chat/completions HTTP/9.9\r\nHost: localhost\r\n\r\n",
        "GARBAGE\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
async def test_garbage_bytes_are_refused(server: World, head: str) -> None:
    answer = await sent(server, head.encode("latin-1"))
    assert 400 <= answer.status < 500
    assert (await post(server, CHAT, ask()))[0] == 200


# ── too much, too slowly ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", QUESTIONS)
async def test_body_over_the_limit_is_refused(path: str) -> None:
    async with world(settings=ApiServerSettings(ApiSettings(body_bytes=1000))) as server:
        announced = request(path, length=10**12)
        for data in (announced, request(path, wrong(x="y" * 2000)), chunked(path, *[b" " * 500] * 5)):
            answer = await sent(server, data)
            assert answer.status == 413
            is_refusal(answer, path)
        assert server.ledger.begun == 0


@pytest.mark.parametrize("path", QUESTIONS)
async def test_slow_body_times_out(path: str) -> None:
    """A byte now and then, for ever."""
    async with world(settings=ApiServerSettings(ApiSettings(body_seconds=0.3))) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request(path, TALK[:1].encode(), length=len(TALK)))

        async def drip() -> None:
            for sign in TALK[1:-1]:
                await asyncio.sleep(0.05)
                writer.write(sign.encode())

        dripping = asyncio.create_task(drip())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert b" 408 " in head.split(b"\r\n")[0]
        length = int(next(line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-l")))
        is_refusal(Answer(408, {}, await asyncio.wait_for(reader.readexactly(length), 10)), path)
        dripping.cancel()
        writer.close()
        assert server.ledger.begun == 0


async def test_an_answer_goes_on_whatever_others_send() -> None:
    async with world(settings=ApiServerSettings(ApiSettings(body_bytes=100_000, body_seconds=0.2))) as server:
        said = "word " * 150
        answer = asyncio.create_task(post(server, CHAT, ask(said, "slow"), Authorization="Bearer somebody"))
        await asyncio.sleep(0.1)
        bad = [request(path, body) for path in QUESTIONS for body in BODIES.values()]
        bad += [request(CHAT, length=10**12), request(OLLAMA, length=50), b"GARBAGE\r\n\r\n"]
        for data in bad:
            assert 400 <= (await sent(server, data)).status < 500
        assert server.ledger.begun == 1
        assert not answer.done(), "the test is about an answer that lasts longer than it"
        status, whole, _ = await asyncio.wait_for(answer, 30)
        assert (status, whole["choices"][0]["message"]["content"]) == (200, said)
        assert (server.ledger.begun, server.ledger.ended) == (1, 1)
