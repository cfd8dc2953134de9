"""What holds for every endpoint: rights, sites, bodies, ids, errors, and clients that come and go."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from exo_rkllm.api.access import host_of, is_loopback
from exo_rkllm.api.context import ApiKey, ApiServerSettings
from exo_rkllm.api.status_models import ModelRows, differences
from exo_rkllm.catalogue.card import Card
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.config import ApiSettings
from exo_rkllm.dispatch.state import DispatchLimits
from exo_rkllm.dispatch.status import ModelStatus
from exo_rkllm.errors import NpuUnavailable
from tests.api.world import CARDS, World, world

KEYS = (ApiKey("admin", "sesame", control=True), ApiKey("guest", "guest"))
LAN = ApiServerSettings(keys=KEYS, loopback=False)


def ask(content: str = "hi", model: str = "qwen", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


async def post(server: World, path: str, body: object, **headers: str) -> tuple[int, dict[str, Any], Any]:
    async with server.http.post(f"{server.url}{path}", json=body, headers=headers) as response:
        return response.status, await response.json(), response.headers


async def raw(server: World, data: bytes, *, seconds: float = 5) -> bytes:
    """Bytes on a bare connection, and what comes back until the server closes or says no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    await writer.drain()
    try:
        return await asyncio.wait_for(reader.read(1 << 20), seconds)
    finally:
        writer.close()


# ── who may ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/v1/messages"])
async def test_daemon_beyond_loopback_needs_a_key(path: str) -> None:
    async with world(settings=LAN) as server:
        body = ask(max_tokens=5, stream=False)
        status, said, headers = await post(server, path, body)
        assert status == 401 and headers["WWW-Authenticate"] == "Bearer"
        assert "key is needed" in json.dumps(said)
        assert (await post(server, path, body, Authorization="Bearer wrong"))[0] == 401
        assert (await post(server, path, body, Authorization="Bearer "))[0] == 401
        assert (await post(server, path, body, Authorization="bearer guest"))[0] == 200
        assert (await post(server, path, body, **{"x-api-key": "sesame"}))[0] == 200


async def test_an_anonymous_opt_out_needs_no_key() -> None:
    async with world(
        settings=ApiServerSettings(ApiSettings(allow_anonymous=True, hosts=("board.lan",)), loopback=False)
    ) as server:
        assert (await post(server, "/v1/chat/completions", ask(), Host="board.lan"))[0] == 200


async def test_on_loopback_any_key_will_do_and_clients_differ_by_it(server: World) -> None:
    running = [
        asyncio.create_task(post(server, "/v1/chat/completions", ask("x" * 60, "slow"), Authorization=f"Bearer {name}"))
        for name in ("one", "two")
    ]
    await asyncio.sleep(0.1)
    status = server.dispatcher.status().models[0]
    assert len({one.client for one in (*status.running, *status.waiting)}) == 2
    await asyncio.gather(*running)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/delete"),
        ("POST", "/api/copy"),
        ("POST", "/api/create"),
        ("POST", "/v1/models/qwen/load"),
        ("POST", "/v1/models/qwen/unload"),
    ],
)
async def test_changes_need_the_right_to_control(method: str, path: str) -> None:
    async with world(settings=LAN) as server:
        for key, status in (("guest", 403), ("nobody", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            async with server.http.request(
                method, server.url + path, json={"model": "qwen"}, headers=headers
            ) as response:
                assert response.status == status
        assert (server.folder / "qwen").is_dir()


async def test_a_key_with_the_right_deletes_and_unloads() -> None:
    async with world(settings=LAN) as server:
        headers = {"Authorization": "Bearer sesame"}
        status, said, _ = await post(server, "/v1/models/qwen/load", {}, **headers)
        assert status == 200 and [one["state"] for one in said["models"] if one["name"] == "qwen"] == ["ready"]
        async with server.http.delete(f"{server.url}/api/delete", json={"name": "qwen"}, headers=headers) as response:
            assert response.status == 200
        assert not (server.folder / "qwen").exists()
        assert not [one for one in server.dispatcher.status().models if one.state != "cold"]


@pytest.mark.parametrize(
    "name", ["../../etc", "..", "/etc/passwd", "qwen/../../x", ".hidden", "a\\..\\b", "%2e%2e", "x" * 600]
)
async def test_names_never_leave_the_models_folder(name: str) -> None:
    """The trap of the incumbent: `/api/delete` with a path deleted files anywhere."""
    async with world(settings=LAN) as server:
        (outside := server.folder.parent / "exo-rkllm-outside").mkdir(exist_ok=True)
        headers = {"Authorization": "Bearer sesame"}
        for method, path in (("DELETE", "/api/delete"), ("POST", "/api/show"), ("POST", "/api/pull")):
            async with server.http.request(method, server.url + path, json={"name": name}, headers=headers) as response:
                assert 400 <= response.status < 500
                assert "error" in await response.json()
        assert outside.is_dir() and {entry.id for entry in server.catalogue.list()} == set(CARDS)
        outside.rmdir()


# ── which site ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "169.254.1.1", "[fe80::1]", "localhost.evil.example"]
)
async def test_a_rebound_name_does_not_reach_loopback(server: World, host: str) -> None:
    status, said, _ = await post(server, "/v1/chat/completions", ask(), Host=host)
    assert status == 403 and "answers on loopback" in said["error"]["message"]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:52415", "127.0.0.1:1", "[::1]:52415", "board.localhost", "127.1.2.3"]
)
async def test_loopback_answers_under_its_own_names(server: World, host: str) -> None:
    assert (await post(server, "/v1/chat/completions", ask(), Host=host))[0] == 200


async def test_names_and_origins_can_be_allowed() -> None:
    settings = ApiServerSettings(ApiSettings(hosts=("llm.example",), origins=("https://chat.example",)))
    async with world(settings=settings) as server:
        assert (await post(server, "/v1/chat/completions", ask(), Host="llm.example"))[0] == 200
        _, _, headers = await post(server, "/v1/chat/completions", ask(), Origin="https://chat.example")
        assert headers["Access-Control-Allow-Origin"] == "https://chat.example"
        preflight = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"}
        async with server.http.options(f"{server.url}/v1/chat/completions", headers=preflight) as response:
            assert response.status == 204 and response.headers["Access-Control-Allow-Origin"] == "https://chat.example"


async def test_pages_of_other_sites_get_nothing_by_default(server: World) -> None:
    status, _, headers = await post(
        server, "/api/generate", {"model": "qwen", "prompt": "x"}, Origin="https://evil.example"
    )
    assert status == 403 and "Access-Control-Allow-Origin" not in headers
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    async with server.http.options(f"{server.url}/api/generate", headers=preflight) as response:
        assert response.status == 403
    assert (await post(server, "/v1/chat/completions", ask(), Origin=server.url))[0] == 200
    assert (await post(server, "/v1/chat/completions", ask(), Origin="null"))[0] == 403


def test_hosts_are_read_as_browsers_write_them() -> None:
    assert [host_of(header) for header in ("[::1]:80", "LocalHost.:80", "a.b")] == ["::1", "localhost", "a.b"]
    assert is_loopback("::1") and not is_loopback("0.0.0.0") and not is_loopback("")  # noqa: S104 - the trap itself


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────

BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "invalid UTF-8": b'{"model": "\xff"}',
    "half a surrogate pair": b'{"model": "qwen", "messages": [{"role": "user", "content": "\\ud800"}]}',
    "a NUL": b'{"model": "qwen", "messages": [{"role": "user", "content": "a\\u0000b"}]}',
    "NaN": b'{"model": "qwen", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    "infinity": b'{"model": "qwen", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
    "a huge number": b'{"model": "qwen", "max_tokens": ' + b"9" * 5000 + b"}",
    "deep nesting": b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nesting that parses": b'{"model": "qwen", "messages": [{"role": "user", "content": "x"}], "metadata": {"a": '
    + b"[" * 200
    + b"]" * 200
    + b"}}",
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
@pytest.mark.parametrize("what", BROKEN)
async def test_a_broken_body_is_a_400_in_the_apis_own_shape(server: World, path: str, what: str) -> None:
    async with server.http.post(f"{server.url}{path}", data=BROKEN[what]) as response:
        said = await response.json()
        assert response.status == 400, said
    error = said["error"]
    assert isinstance(error if path == "/api/chat" else error["message"], str)
    assert "Traceback" not in json.dumps(said)
    assert server.ledger.begun == 0


async def test_an_oversized_body_is_refused_before_it_is_read() -> None:
    async with world(settings=ApiServerSettings(ApiSettings(body_bytes=1000))) as server:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
        assert b"413" in (await raw(server, head, seconds=2)).split(b"\r\n")[0]
        status, said, _ = await post(server, "/v1/chat/completions", ask("x" * 2000))
        assert status == 413 and said["error"]["code"] == "body_too_large"
        chunks = (
            b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n" + b"x" * 2048
        )
        assert b"413" in (await raw(server, chunks + b"\r\n0\r\n\r\n", seconds=2)).split(b"\r\n")[0]


async def test_a_slow_body_is_given_up() -> None:
    async with world(settings=ApiServerSettings(ApiSettings(body_seconds=0.2))) as server:
        head = b'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"mo'
        answer = await raw(server, head, seconds=3)
        assert b"408" in answer.split(b"\r\n")[0] and b"body_too_slow" in answer


async def test_unknown_fields_are_named_and_harmless(server: World) -> None:
    body = {**ask(), "max_token": 5, "evil\r\nSet-Cookie: a": 1, "session_id": "x"}
    status, _, headers = await post(server, "/v1/chat/completions", body)
    assert status == 200 and headers["X-Ignored-Fields"] == "max_token, session_id"
    assert "Set-Cookie" not in headers


# ── ids and errors ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sent", "kept"), [("abc-1.2_3", True), ("a b", False), ("x" * 65, False), ("é", False), ("", False)]
)
async def test_request_ids_come_back_when_they_are_harmless(server: World, sent: str, kept: bool) -> None:
    _, _, headers = await post(server, "/v1/chat/completions", ask(stream=False), **{"X-Request-Id": sent})
    assert (headers["X-Request-Id"] == sent) is kept
    assert headers["X-Request-Id"].replace("-", "").replace(".", "").replace("_", "").isalnum()


async def test_streams_carry_a_request_id(server: World) -> None:
    async with server.http.post(
        f"{server.url}/v1/messages", json=ask(max_tokens=5, stream=True), headers={"X-Request-Id": "mine"}
    ) as response:
        assert response.headers["X-Request-Id"] == response.headers["request-id"] == "mine"
        assert (await response.read()).endswith(b"\n\n")


@pytest.mark.parametrize(
    ("path", "shape"),
    [("/v1/nothing", ("error", "message")), ("/api/nothing", ("error",)), ("/v1/messages/x/y", ("error", "message"))],
)
async def test_unknown_path_is_a_404_in_the_apis_shape(server: World, path: str, shape: tuple[str, ...]) -> None:
    async with server.http.get(server.url + path) as response:
        said = await response.json()
        assert response.status == 404
    for key in shape:
        said = said[key]
    assert "Nothing answers under" in said


async def test_a_wrong_method_names_the_right_ones(server: World) -> None:
    async with server.http.get(f"{server.url}/v1/chat/completions") as response:
        assert response.status == 405 and response.headers["Allow"] == "POST"


async def test_a_full_queue_says_when_to_come_back() -> None:
    """The incumbents lose or hang requests of a second client."""
    async with world(limits=DispatchLimits(queue=1)) as server:
        await server.dispatcher.load("slow")
        running = [
            asyncio.create_task(
                post(server, "/v1/chat/completions", ask("x" * 90, "slow"), Authorization=f"Bearer {n}")
            )
            for n in range(2)
        ]
        await asyncio.sleep(0.15)
        for path in ("/v1/chat/completions", "/api/chat", "/v1/messages"):
            status, said, headers = await post(server, path, ask("x", "slow", max_tokens=5, stream=True))
            assert status == 503 and int(headers["Retry-After"]) >= 1, said
        assert [status for status, _, _ in await asyncio.gather(*running)] == [200, 200]


async def test_a_defect_of_ours_is_a_sentence_and_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> dict[str, Any]:
        raise ZeroDivisionError("secret detail")

    async with world(board=broken) as server:
        async with server.http.get(f"{server.url}/v1/status") as response:
            text = await response.text()
        assert response.status == 500 and "secret" not in text and "Traceback" not in text
    assert "secret detail" in caplog.text


# ── clients that come and go ─────────────────────────────────────────────────────────────────────


async def settled(server: World, seconds: float = 3) -> None:
    for _ in range(int(seconds / 0.01)):
        if not server.dispatcher.status().running and not server.dispatcher.status().waiting:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"still busy: {server.dispatcher.status()}")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/v1/messages", "/v1/responses"])
async def test_a_client_that_hangs_up_ends_its_run_and_no_other(server: World, path: str, stream: bool) -> None:
    long = "x" * 3000
    question = {"input": long, "model": "slow"} if path == "/v1/responses" else ask(long, "slow", max_tokens=5000)
    leaving = asyncio.create_task(hang_up(server, http(path, {**question, "stream": stream}), after=0.3))
    await asyncio.sleep(0.1)
    staying = asyncio.create_task(post(server, "/v1/chat/completions", ask("I stay", "slow")))
    await leaving
    status, said, _ = await asyncio.wait_for(staying, 5)
    assert status == 200 and said["choices"][0]["message"]["content"] == "I stay"
    await settled(server)
    assert (server.ledger.begun, server.ledger.ended, server.ledger.left) == (2, 1, 1)


async def test_client_that_leaves_the_queue_never_starts_prefill(server: World) -> None:
    first = asyncio.create_task(post(server, "/v1/chat/completions", ask("x" * 60, "slow")))
    await asyncio.sleep(0.1)
    await hang_up(server, http("/v1/chat/completions", ask("never", "slow")), after=0.1)
    await first
    await settled(server)
    assert server.ledger.begun == 1


async def hang_up(server: World, data: bytes, *, after: float) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    await asyncio.sleep(after)
    writer.close()
    await writer.wait_closed()


def http(path: str, body: object) -> bytes:
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


async def test_many_clients_on_one_model_never_mix(server: World) -> None:
    """A peer's server mixed the answers of two users."""

    async def one(number: int) -> None:
        words = f"client {number} says {random.Random(number).randbytes(40).hex()}"
        text = ""
        async with server.http.post(
            f"{server.url}/v1/chat/completions",
            json=ask(words, stream=True),
            headers={"Authorization": f"Bearer {number}"},
        ) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
        assert text == words

    await asyncio.gather(*(one(number) for number in range(32)))


async def test_a_client_that_reads_nothing_holds_up_nobody() -> None:
    async with world(settings=ApiServerSettings(ApiSettings(idle_seconds=0.5))) as server:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(
            sock, http("/v1/completions", {"model": "dummy", "prompt": "word " * 90_000, "stream": True})
        )
        await asyncio.sleep(0.2)
        answer = await asyncio.wait_for(post(server, "/v1/completions", {"model": "dummy", "prompt": "x"}), 5)
        assert answer[1]["choices"][0]["text"] == "x"
        await settled(server)
        await asyncio.sleep(1.5)
        got = b""
        while data := await loop.sock_recv(sock, 1 << 20):
            got += data
        sock.close()
        assert got.startswith(b"HTTP/1.1 200") and b"[DONE]" not in got  # cut, and not sent to the end


async def test_a_stream_that_waits_long_begins_with_a_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy gives up on a model that loads, and the SDKs skip comments."""
    async with world(settings=ApiServerSettings(ApiSettings(idle_seconds=0.1))) as server:
        first = asyncio.create_task(post(server, "/v1/chat/completions", ask("x" * 120, "slow")))
        await asyncio.sleep(0.05)
        async with server.http.post(
            f"{server.url}/v1/chat/completions", json=ask("y", "slow", stream=True)
        ) as response:
            text = await response.text()
        assert text.startswith(": queued 1\n\n") and '"content":"y"' in text
        await first


# ── health ───────────────────────────────────────────────────────────────────────────────────────


async def get(server: World, path: str) -> tuple[int, str]:
    async with server.http.get(server.url + path) as response:
        return response.status, await response.text()


async def test_readyz_fails_while_healthz_succeeds(server: World) -> None:
    assert await get(server, "/healthz") == (200, "ok\n")
    assert await get(server, "/readyz") == (200, "ready\n")
    server.dispatcher.npu_unavailable(NpuUnavailable("The NPU is gone.", "sudo modprobe rknpu"))
    assert await get(server, "/healthz") == (200, "ok\n")
    assert await get(server, "/readyz") == (503, "The NPU is gone. sudo modprobe rknpu\n")


async def test_metrics_and_node_id_come_from_the_daemon(server: World) -> None:
    assert (await get(server, "/metrics"))[0] == 404
    assert (await get(server, "/node_id"))[0] == 404
    asked = []

    def metrics(accept: str) -> tuple[bytes, str]:
        asked.append(accept)
        return b"a 1\n", "text/plain; version=0.0.4; charset=utf-8"

    async with world(metrics=metrics, node_id=lambda: "12D3") as other:
        async with other.http.get(
            f"{other.url}/metrics", headers={"Accept": "application/openmetrics-text"}
        ) as response:
            assert await response.read() == b"a 1\n" and "version=0.0.4" in response.headers["Content-Type"]
        assert asked == ["application/openmetrics-text"]
        assert await get(other, "/node_id") == (200, '"12D3"')


async def test_events_tell_every_change_and_end_with_the_daemon() -> None:
    watched = []

    class Watching:
        def __enter__(self) -> None:
            watched.append("in")

        def __exit__(self, *_: object) -> None:
            watched.append("out")

    async with world(watch=Watching) as server:
        async with server.http.get(f"{server.url}/v1/events", timeout=aiohttp.ClientTimeout(total=10)) as response:
            stream = statuses(response)
            assert (await anext(stream))["models"][1]["state"] == "cold"
            assert watched == ["in"]
            await server.dispatcher.load("qwen")
            while {one["name"]: one["state"] for one in (await anext(stream))["models"]}["qwen"] != "ready":
                pass
            await server.dispatcher.drain(0)
            assert [status["draining"] async for status in stream][-1] is True
        assert watched == ["in", "out"]


async def statuses(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The status as a client keeps it up to date."""
    status: dict[str, Any] = {}
    async for line in response.content:
        if line.startswith(b"event: "):
            event = line[7:].strip()
        elif line.startswith(b"data: "):
            new = json.loads(line[6:])
            changed = {model["name"]: model for model in new.get("models", ())} if event == b"change" else {}
            models = [changed.get(model["name"], model) for model in status.get("models", ())]
            status = {**status, **new, "models": models} if event == b"change" else new
            yield status


def model_row(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "state": "cold", **more}


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ({"time": 2, "models": [model_row("a"), model_row("b")]}, {"time": 2}),
        ({"time": 2, "models": [model_row("a"), model_row("b", x=1)]}, {"time": 2, "models": [model_row("b", x=1)]}),
        ({"time": 1, "models": [model_row("a")]}, None),
        ({"time": 1, "models": [model_row("b"), model_row("a")]}, None),
    ],
)
def test_only_what_changed_is_sent(now: dict[str, Any], expected: dict[str, Any] | None) -> None:
    before: dict[str, Any] = {"time": 1, "models": [model_row("a"), model_row("b")]}
    assert differences(before, now) == expected


def test_row_of_a_model_is_made_again_only_when_it_changed(tmp_path: Path) -> None:
    """Every second of every open page took 15 ms with 508 models."""
    rows = ModelRows()
    board: dict[str, Any] = {"soc": "RK3588", "memory_total": 8 << 30}
    one, two = (Entry(tmp_path, Card(name)) for name in ("one", "two"))
    first = rows.of([one, two], [], board, lambda _entry: None)
    status = ModelStatus(name="two", engine="rkllm", state="ready", since=1.0)
    second = rows.of([one, two], [status], board, lambda _entry: None)
    third = rows.of([one, two], [replace(status)], {**board, "load": 7}, lambda _entry: None)
    assert second[0] is first[0] and second[1] is not first[1]
    assert third[1] is second[1] and third[1]["state"] == "ready"
    assert rows.of([two], [status], {**board, "soc": "RK3576"}, lambda _entry: None)[0] is not third[1]
    gone = rows.of([one], [status], board, lambda _entry: None)
    assert [row["name"] for row in gone] == ["one", "two"]


async def test_ollamas_clients_hear_that_it_runs(server: World) -> None:
    assert "Ollama is running" in (await get(server, "/"))[1]
    async with server.http.head(server.url + "/") as response:
        assert response.status == 200
    async with server.http.get(server.url + "/", headers={"Accept": "text/html"}) as response:
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        etag = response.headers["ETag"]
    async with server.http.get(server.url + "/", headers={"Accept": "text/html", "If-None-Match": etag}) as response:
        assert response.status == 304
