"""Images named by address: fetched only where the owner allows it, and never from a private network."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from exo_rkllm.api import fetching
from exo_rkllm.api.context import ApiServerSettings
from exo_rkllm.api.fetching import is_public
from exo_rkllm.config import ApiSettings
from tests.api.test_serving import post
from tests.api.world import World, world

PNG = b"\x89PNG\r\n\x1a\nnot much of one"
OFF = (
    "messages[0].content[0].image_url.url must be a data URL of an image in base64. No image is fetched from outside: "
    "send it in the request, or set [api] fetch_images = true."
)


class Site:
    """A server with images; `asked` are the paths that reached it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.url = ""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.path.startswith("/to/"):
            raise web.HTTPFound(request.query.get("url", request.path))
        if request.path == "/slow":
            await asyncio.sleep(30)
        if request.path == "/none":
            raise web.HTTPNotFound
        size = int(request.query.get("more", 0))
        kind = "text/html" if request.path == "/page" else "image/png"
        return web.Response(body=PNG + bytes(size), content_type=kind)

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        place = web.TCPSite(runner, "127.0.0.1", 0)
        await place.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    runner = await made.start()
    yield made
    await runner.cleanup()


@pytest.fixture
async def fetches() -> AsyncIterator[World]:
    async with world(ApiServerSettings(ApiSettings(fetch_images=True, body_bytes=100_000))) as running:
        yield running


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no internet here; 127.0.0.1 plays it, and 127.0.0.2 is still private."""
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")


def question(*urls: str) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"model": "seer", "messages": [{"role": "user", "content": content}]}


async def refusal(server: World, *urls: str) -> str:
    status, said, _ = await post(server, "/v1/chat/completions", question(*urls))
    assert status == 400, said
    assert said["error"]["param"].startswith("messages[0].content[")
    return str(said["error"]["message"])


async def test_nothing_is_fetched_unless_the_owner_allows_it(server: World, site: Site) -> None:
    assert await refusal(server, f"{site.url}/cat.png") == OFF
    assert site.asked == []


@pytest.mark.usefixtures("loopback_is_public")
async def test_images_are_fetched_for_every_language_that_has_addresses(fetches: World, site: Site) -> None:
    url = f"{site.url}/cat.png"
    block = {"type": "image", "source": {"type": "url", "url": url}}
    item = {"type": "input_image", "image_url": f"HTTP{url[4:]}"}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [block]}
    output = {"type": "function_call_output", "call_id": "c1", "output": [item]}
    asked: tuple[tuple[str, dict[str, Any]], ...] = (
        ("/v1/chat/completions", question(url, url)),
        ("/v1/messages", {"model": "seer", "max_tokens": 9, "messages": [{"role": "user", "content": [block]}]}),
        ("/v1/messages", {"model": "seer", "max_tokens": 9, "messages": [{"role": "user", "content": [result]}]}),
        ("/v1/responses", {"model": "seer", "input": [{"role": "user", "content": [item]}]}),
        ("/v1/responses", {"model": "seer", "input": [output]}),
    )
    for path, body in asked:
        status, said, _ = await post(fetches, path, body)
        assert status == 200, said
        assert {image.data for image in fetches.ledger.requests[-1].images} == {PNG}, path
    assert site.asked == ["/cat.png"] * 5, "the same address is fetched once a request"


@pytest.mark.usefixtures("loopback_is_public")
async def test_nothing_is_fetched_for_a_model_that_cannot_see(fetches: World, site: Site) -> None:
    for model, code, words in (("qwen", 400, "qwen does not see images."), ("none", 404, "none")):
        status, said, _ = await post(
            fetches, "/v1/chat/completions", {**question(f"{site.url}/cat.png"), "model": model}
        )
        assert status == code
        assert words in said["error"]["message"]
    assert site.asked == []


@pytest.mark.usefixtures("loopback_is_public")
async def test_what_cannot_be_fetched_is_said(fetches: World, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "answers 404" in await refusal(fetches, f"{site.url}/none")
    assert "'text/html'" in await refusal(fetches, f"{site.url}/page")
    assert "[api] body_bytes" in await refusal(fetches, f"{site.url}/a?more=200000")
    assert "[api] body_bytes" in await refusal(fetches, f"{site.url}/a?more=60000", f"{site.url}/b?more=60000")
    assert "More than 16" in await refusal(fetches, *(f"{site.url}/{number}" for number in range(17)))
    assert "not known" in await refusal(fetches, "http://no-such-host.invalid/cat.png")
    assert "ClientConnectorError" in await refusal(fetches, "http://127.0.0.1:1/cat.png")
    monkeypatch.setattr(fetching, "SECONDS", 0.2)
    assert "within 0.2 seconds" in await refusal(fetches, f"{site.url}/slow")


@pytest.mark.usefixtures("loopback_is_public")
async def test_redirects_are_followed_only_to_public_addresses(fetches: World, site: Site) -> None:
    status, _, _ = await post(fetches, "/v1/chat/completions", question(f"{site.url}/to/it?url=/cat.png"))
    assert status == 200
    for target, words in (
        (site.url.replace("127.0.0.1", "127.0.0.2") + "/inside", "private network"),
        ("file:///etc/passwd", "no http or https address"),
        ("http://[::1]/inside", "private network"),
        ("/to/again", "from one address to the next"),
    ):
        assert words in await refusal(fetches, f"{site.url}/to/it?url={target}"), target
    assert "/inside" not in site.asked


async def test_name_that_is_bound_anew_is_not_resolved_twice(
    fetches: World, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer is what is checked, and what is connected to."""
    port, answers = int(site.url.rpartition(":")[2]), iter(["127.0.0.1", "127.0.0.2"])

    async def resolve(_loop: object, host: str, _port: int, **_more: Any) -> list[Any]:
        assert host == "rebound.example"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    status, said, _ = await post(fetches, "/v1/chat/completions", question(f"http://rebound.example:{port}/cat.png"))
    assert status == 200, said
    assert list(answers) == ["127.0.0.2"], "nobody resolved it again"


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),  # noqa: S104
        *("224.0.0.1", "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1::1", "localhost"),
    ],
)
def test_private_addresses_are_told_in_every_form(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111"])
def test_public_addresses_are_told(address: str) -> None:
    assert is_public(address)


async def test_odd_spellings_of_loopback_are_refused(fetches: World) -> None:
    for url in ("http://2130706433/x", "http://0x7f.1/x", "http://127.1/x", "http://[::ffff:7f00:1]/x"):
        assert "private network" in await refusal(fetches, url), url
