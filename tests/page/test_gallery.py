"""The gallery of the page: an assembled daemon, a Hub on loopback, and a real browser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.daemon.conftest import board_house as board_house
from tests.daemon.conftest import house as house
from tests.daemon.running import House
from tests.daemon.test_rights import ADMIN, GUEST, Listener
from tests.hub import CHUNK, LocalHub, large
from tests.page.browser import Tab, browser
from tests.page.opening import needs_chromium, press
from tests.page.test_board import use_key

pytestmark = needs_chromium
LIST = "document.getElementById('model-list').innerText"
FOUND = "document.getElementById('gallery-list').innerText"
KEYS = f"{ADMIN} control\n{GUEST}\n"
REPO, FILE = "maker/Tower-1B-RKLLM", "Tower-1B_w8a8_rk3588.rkllm"
OTHER = "maker/Mast-1B-RKLLM"


@asynccontextmanager
async def shop(house: House, make_model: Callable[..., Path], keys: str = KEYS) -> AsyncIterator[tuple[LocalHub, str]]:
    async with LocalHub() as hub:
        weights = make_model(reply="hi", size=60 * CHUNK).read_bytes()
        hub.add(REPO, {FILE: large(weights)}, downloads=1200)
        hub.add(OTHER, {"Mast-1B_w8a8_rk3588.rkllm": large(weights)}, downloads=7)
        hub.add("maker/Poet-7B-RK3576-RKLLM", {"Poet_RK3576_w4a16.rkllm": large(b"x")}, downloads=9)
        (house.folder / "api-keys").write_text(keys)
        daemon = await asyncio.to_thread(
            house.start,
            HF_ENDPOINT=hub.endpoint,
            EXO_RKLLM_API_KEYS=str(house.folder / "api-keys") if keys else "",
            EXO_RKLLM_API_LOOPBACK_OPEN="true",
        )
        yield hub, f"http://127.0.0.1:{Listener(daemon).port}"


async def open_as_owner(tab: Tab, url: str) -> None:
    await tab.open(url)
    await tab.until("document.getElementById('open-key')")
    await use_key(tab, ADMIN)
    await tab.until("document.getElementById('open-gallery')")


async def look_for(tab: Tab, words: str) -> None:
    await press(tab, "Find models")
    await tab.until("document.getElementById('gallery').open")
    await tab.run("document.getElementById('gallery-words').focus()")
    await tab.type(words)
    await tab.press("Enter")


async def test_model_is_found_pulled_paused_resumed_and_removed(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    async with shop(board_house, make_model) as (hub, url), browser() as tab:
        await open_as_owner(tab, url)
        await look_for(tab, "rkllm")
        await tab.until(f"{FOUND}.includes('Tower')")
        text = await tab.run(FOUND)
        assert "fetched 1,200 times" in text and "4 MB" in text and "w8a8" in text
        assert "has files for RK3576 only, and this board is an RK3588" in text
        assert "2 of 3 fit this board." in await tab.run("document.getElementById('gallery').innerText")
        for width, height in ((1024, 600), (390, 844), (1280, 800)):
            await tab.look(width, height)
            box = await tab.run("document.getElementById('gallery').getBoundingClientRect().toJSON()")
            assert box["left"] >= 0 and box["top"] >= 0 and box["right"] <= width and box["bottom"] <= height, box
            assert await tab.run("document.documentElement.scrollWidth") <= width
        hub.faults.pause = 0.05
        await press(tab, f"Pull {REPO}")
        await tab.until(f"{FOUND}.includes('pulling')")
        await press(tab, f"Pull {OTHER}")
        await tab.until(f"{FOUND}.includes('waiting')")
        await press(tab, "Close")
        name = REPO.partition("/")[2]
        await tab.until("document.querySelector('.pull progress')?.value > 0")
        other = OTHER.partition("/")[2]
        await press(tab, f"Pause {other}")
        await tab.until(f"{LIST}.includes('paused')")
        await press(tab, f"Resume {other}")
        await tab.until(f"{LIST}.includes('waiting')")
        await press(tab, f"Cancel {other}")
        await tab.until(f"!{LIST}.includes('Mast')")
        await press(tab, f"Pause {name}")
        await tab.until(f"{LIST}.includes('paused')")
        sent = hub.sent
        await asyncio.sleep(0.2)
        assert hub.sent <= sent + CHUNK
        await tab.run("location.reload()")
        await tab.until(f"document.getElementById('model-list') && {LIST}.includes('paused')")
        hub.faults.pause = 0
        await press(tab, f"Resume {name}")
        await tab.until(f"{LIST}.includes('tower-1b is ready')")
        assert [one.headers.get("Range", "")[:6] for one in hub.asked if one.origin == "cdn"] == ["", "bytes="]
        await press(tab, f"Dismiss {name}")
        await tab.until("!document.querySelector('.pull')")
        assert (board_house.models / "tower-1b/model.toml").is_file()
        await press(tab, "Remove Tower 1B")
        await press(tab, "Remove files")
        await tab.until(f"!{LIST}.includes('Tower')")
        assert not (board_house.models / "tower-1b").exists()
        assert tab.problems == []


async def test_visitor_without_the_right_to_control_gets_the_command(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    """As on loopback without keys, where everybody may search and load."""
    async with shop(board_house, make_model, keys="") as (_, url), browser() as tab, aiohttp.ClientSession() as http:
        await tab.open(url)
        await look_for(tab, "tower")
        await press(tab, f"Copy the command that pulls {REPO}")
        assert "needs a key with the right to control" in await tab.run("document.getElementById('gallery').innerText")
        for path in ("/v1/pulls", "/v1/pulls/pause", "/v1/pulls/cancel"):
            async with http.post(url + path, json={"model": REPO}) as refused:
                assert refused.status == 403, await refused.text()
        assert tab.problems == []


async def test_key_without_rights_neither_searches_nor_pulls(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    async with shop(board_house, make_model) as (_, url), aiohttp.ClientSession() as http:
        async with http.get(f"{url}/v1/status") as response:
            assert (await response.json())["may"] == {"control": False, "load": False}
        for path, body in (("/v1/pulls", {"model": REPO}), ("/v1/gallery", {"search": "x"})):
            async with http.post(url + path, json=body, headers={"Authorization": f"Bearer {GUEST}"}) as refused:
                assert refused.status == 403, await refused.text()
        headers = {"Authorization": f"Bearer {ADMIN}"}
        async with http.post(f"{url}/v1/pulls/pause", json={"model": REPO}, headers=headers) as unknown:
            assert (unknown.status, "not being pulled" in await unknown.text()) == (404, True)
        async with http.post(f"{url}/v1/pulls", json={"model": "no-such-name"}, headers=headers) as unknown:
            assert (unknown.status, "There is no short name" in await unknown.text()) == (404, True)
