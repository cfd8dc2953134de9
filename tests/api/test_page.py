"""The status page in a real browser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from exo_rkllm.api.context import ApiKey, ApiServerSettings, Plain
from exo_rkllm.cluster.session.view import ClusterView, OfferView, Phase, unconfirmed
from exo_rkllm.config import ApiSettings
from exo_rkllm.errors import NpuUnavailable
from tests.api.browser import PROGRAM, Tab, browser
from tests.api.world import CARDS, World, world

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine (apt install chromium)")

KEYS = ApiServerSettings(
    ApiSettings(loopback_open=True), keys=(ApiKey("admin", "sesame", control=True), ApiKey("guest", "guest"))
)
BOARD: dict[str, Any] = {
    "title": "Orange Pi 5 <b>Plus</b>",
    "soc": "RK3588",
    "powered": True,
    "load": [0.25, 0.5, 1.0],
    "clock": {"hertz": 1_000_000_000, "governor": "rknpu_ondemand", "throttled": False},
    "celsius": 52.0,
    "memory_total": 16_000_000_000,
    "memory_available": 11_000_000_000,
    "absent": {},
}
BLIND: dict[str, Any] = {
    **BOARD,
    "load": None,
    "clock": None,
    "celsius": None,
    "absent": {"load": "only root may read it", "clock": "no devfreq", "temperature": "no thermal zone"},
}


@asynccontextmanager
async def opened(
    board: Plain = BOARD, settings: ApiServerSettings = KEYS, cluster: Plain | None = None, **look: Any
) -> AsyncIterator[tuple[World, Tab]]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            world(settings=settings, board=lambda: board, cluster=lambda: cluster or {})
        )
        tab = await stack.enter_async_context(browser())
        await tab.open(server.url, **look)
        yield server, tab


async def use_key(tab: Tab, key: str) -> None:
    await tab.run("document.getElementById('open-key').click()")
    await tab.run(f"document.getElementById('key').value = '{key}'")
    await tab.run("document.getElementById('key-form').requestSubmit()")


async def test_the_page_is_live_and_brings_everything_itself() -> None:
    async with opened() as (server, tab):
        await tab.until("document.querySelectorAll('.lane').length === 3")
        text = await tab.text()
        for said in ("Orange Pi 5 <b>Plus</b>", "RK3588", "25%", "50%", "100%", "1.00", "52", "of 16.0 GB", "ready"):
            assert said in text, said
        assert {url.split("/")[2] for url in tab.urls} == {f"127.0.0.1:{server.port}"}
        await server.dispatcher.load("qwen")
        await tab.until("document.body.innerText.includes('1 of 5 loaded')")
        server.dispatcher.npu_unavailable(NpuUnavailable("The NPU is gone.", "sudo modprobe rknpu"))
        await tab.until("document.getElementById('notice').innerText.includes('modprobe')")
        assert await tab.run("document.getElementById('pill').textContent") == "cannot run"
        assert tab.problems == []


async def test_what_cannot_be_read_is_told_with_its_reason_and_never_as_zero() -> None:
    async with opened(BLIND) as (_, tab):
        await tab.until("document.querySelector('.absent')")
        text = await tab.text()
        for said in ("not readable: only root may read it", "no devfreq", "no thermal zone"):
            assert said in text, said
        assert "0%" not in text and "0.00" not in text and "\n0\n" not in text


async def test_models_that_the_cluster_is_not_offered_are_named_with_the_reason() -> None:
    offers = (
        OfferView("rkllm/a", "a", offered=True),
        OfferView("rkllm/b", "b", offered=False, reason="It is too large."),
    )
    cluster = ClusterView(Phase.SERVING, namespace="0.3.70", offers=offers).plain()
    async with opened(cluster=cluster) as (_, tab):
        await tab.until("document.querySelector('#cluster-body .meta')")
        text = await tab.text()
        assert "b is not offered: It is too large." in text
        assert "a is not offered" not in text


async def test_cluster_that_nobody_confirmed_is_announced_with_what_forbids_it() -> None:
    cluster = ClusterView(Phase.SERVING, namespace="0.3.70", announcement=unconfirmed("0.3.70")).plain()
    async with opened(cluster=cluster) as (_, tab):
        await tab.until("document.querySelector('#cluster-body .trouble')")
        text = await tab.text()
        assert "joins the exo cluster 0.3.70, which nobody has confirmed" in text
        assert "enabled = false under [cluster]" in text
        assert tab.problems == []


async def test_without_a_model_the_chat_offers_nothing_and_the_first_one_opens_it() -> None:
    async with world(cards={}) as server, browser() as tab:
        await tab.open(server.url)
        await tab.until("document.body.innerText.includes('There is no model to ask yet.')")
        assert "exo-rkllm pull ORG/REPO" in await tab.text()
        shown = "['model', 'fresh'].every((id) => document.getElementById(id)?.offsetParent)"
        on = "['question', 'send'].every((id) => document.getElementById(id)?.disabled === false)"
        assert not await tab.run(f"{shown} || {on}")
        (server.folder / "qwen").mkdir()
        (server.folder / "qwen" / "model.toml").write_text(f'id = "qwen"\n{CARDS["qwen"]}')
        await tab.send("Page.reload")
        await tab.until(f"{shown} && {on} && document.body.innerText.includes('Ask the board something.')")
        assert tab.problems == []


async def test_a_chat_streams_folds_thoughts_and_stops() -> None:
    async with opened() as (server, tab):
        await tab.until("document.querySelectorAll('#model option').length === 5")
        await tab.run("document.getElementById('model').value = 'thinker'; document.getElementById('question').focus()")
        await tab.type("«<think>\nlet me see\n</think>\n\n<i>plain</i>\n```py\nx = 1\n```»")
        await tab.press("Enter")
        await tab.until("document.querySelector('.said.board .meta').textContent.includes('tokens')")
        assert await tab.run("document.querySelector('.said.board details').open") is False
        assert await tab.run("document.querySelector('.said.board details .text').textContent") == "let me see"
        assert await tab.run("document.querySelector('.said.board pre').textContent") == "x = 1\n"
        assert await tab.run("document.querySelector('.said.board i')") is None
        await tab.run("document.getElementById('model').value = 'slow'; document.getElementById('question').focus()")
        await tab.type("«" + "on and on " * 200 + "»")
        await tab.press("Enter")
        await tab.until("document.querySelectorAll('.said.board')[1]?.innerText.includes('on and on')")
        await tab.until("document.getElementById('queue').innerText.includes('answering')")
        await tab.press("Escape")
        await tab.until("document.body.innerText.includes('stopped')")
        for _ in range(100):
            if server.ledger.left:
                break
            await asyncio.sleep(0.02)
        assert server.ledger.left == 1
        assert tab.problems == []


async def test_only_who_may_control_has_the_buttons() -> None:
    async with opened() as (_, tab):
        await tab.until("document.querySelectorAll('#model-list li').length === 5")
        assert await tab.run("document.querySelectorAll('#model-list button').length") == 0
        await use_key(tab, "sesame")
        await tab.until("document.querySelectorAll('#model-list button').length === 5")
        await tab.run("document.querySelector('[aria-label=\"Load qwen\"]').click()")
        await tab.until("document.querySelector('[aria-label=\"Unload qwen\"]')")
        await tab.run("document.querySelector('[aria-label=\"Unload qwen\"]').click()")
        await tab.until("document.querySelector('[aria-label=\"Load qwen\"]')")
        assert tab.problems == []


async def test_off_loopback_the_page_asks_for_a_key() -> None:
    async with opened(settings=ApiServerSettings(keys=KEYS.keys, loopback=False)) as (_, tab):
        await tab.until("document.getElementById('key-box').open")
        assert "Orange Pi" not in await tab.text()
        await tab.run("document.getElementById('key').value = 'guest'")
        await tab.press("Enter")
        await tab.until("document.querySelectorAll('.lane').length === 3")


async def test_the_keyboard_reaches_everything_in_order() -> None:
    async with opened() as (_, tab):
        await tab.until("document.querySelectorAll('#model option').length === 5")
        seen = []
        for _ in range(7):
            await tab.press("Tab")
            seen.append(await tab.run("document.activeElement.id || document.activeElement.className"))
            focused = "getComputedStyle(document.activeElement).outlineStyle"
            assert await tab.run(focused) != "none"
        assert seen == ["skip", "open-key", "model", "fresh", "talk", "question", "send"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 768, 1280])
async def test_every_width_and_both_colours_are_readable(width: int, dark: bool) -> None:
    async with opened(width=width, dark=dark) as (_, tab):
        await tab.until("document.querySelectorAll('.lane').length === 3")
        assert await tab.run("document.documentElement.scrollWidth") <= width
        assert (
            await tab.run("Math.min(...[...document.querySelectorAll('canvas')].map((one) => one.clientWidth))") > 100
        )
        low = await tab.run(CONTRAST)
        assert low == [], low


# Text whose contrast with the nearest opaque background is below WCAG's 4.5.
CONTRAST = """
(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => { const [r, g, b] = rgb.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (node) => { for (; node; node = node.parentElement) { const c = parse(getComputedStyle(node).backgroundColor); if (c.length < 4 || c[3] > 0.9) return c.slice(0, 3); } return [255, 255, 255]; };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest("noscript, .unseen, .skip, option, :disabled")) continue;
    const a = light(parse(getComputedStyle(node).color).slice(0, 3)), b = light(behind(node));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${walker.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
  }
  return found;
})()
"""  # noqa: E501 - JavaScript
