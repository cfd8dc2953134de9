"""The board beside the chat, in a real browser."""

from __future__ import annotations

import time
from typing import Any

import pytest

from exo_rkllm.api.context import ApiServerSettings
from exo_rkllm.backends.dummy import DummyEngine
from exo_rkllm.board.history import HistoryPoint
from exo_rkllm.cluster.session.view import ClusterView, OfferView, Phase, unconfirmed
from exo_rkllm.errors import NpuUnavailable
from tests.api.world import CARDS, world
from tests.page.browser import Tab, browser
from tests.page.opening import BOARD, KEYS, LANES, needs_chromium, opened

pytestmark = needs_chromium

BLIND: dict[str, Any] = {
    **BOARD,
    "load": None,
    "clock": None,
    "celsius": None,
    "absent": {"load": "only root may read it", "clock": "no devfreq", "temperature": "no thermal zone"},
}


async def use_key(tab: Tab, key: str) -> None:
    await tab.run("document.getElementById('open-key').click()")
    await tab.run(f"document.getElementById('key').value = '{key}'")
    await tab.run("document.getElementById('key-form').requestSubmit()")


async def test_page_is_live_and_brings_everything_itself() -> None:
    async with opened() as (server, tab):
        await tab.until(LANES)
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


async def test_loaded_model_names_its_runtime_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DummyEngine, "runtime", ("1.2.3", "its card says so"))
    async with opened(cards={"words": 'engine = "dummy"\n'}) as (server, tab):
        await tab.until("document.querySelector('#model-list .name')")
        assert "runtime" not in await tab.run("document.getElementById('model-list').innerText")
        await server.dispatcher.load("words")
        await tab.until("document.getElementById('model-list').innerText.includes('runtime 1.2.3, its card says so')")
        assert tab.problems == []


@pytest.mark.parametrize("stops", [True, False])
async def test_fault_of_the_npu_that_stops_nothing_is_told_beside_its_lanes(stops: bool) -> None:
    """One that stops it is the reason why nothing can run, which the notice above everything tells."""
    log: dict[str, Any] = {
        "errors": {"hung_job": 1},
        "fault": "hung_job",
        "stops": stops,
        "sentence": "A job hung.",
        "hint": "Unload.",
    }
    async with opened({**BOARD, "kernel_log": log}) as (_, tab):
        await tab.until(LANES)
        assert await tab.run("document.getElementById('npu-fault')?.textContent || ''") == (
            "" if stops else "A job hung. Unload."
        )
        assert tab.problems == []


async def test_models_that_the_cluster_is_not_offered_are_named_with_the_reason() -> None:
    offers = (
        OfferView("rkllm/a", "a", offered=True),
        OfferView("rkllm/b", "b", offered=False, reason="It is too large."),
    )
    cluster = ClusterView(Phase.SERVING, namespace="0.3.70", offers=offers).plain()
    async with opened(cluster=lambda: cluster) as (_, tab):
        await tab.until("document.querySelector('#cluster .meta')")
        text = await tab.text()
        assert "b is not offered: It is too large." in text
        assert "a is not offered" not in text


async def test_cluster_that_nobody_confirmed_is_announced_with_what_forbids_it() -> None:
    cluster = ClusterView(Phase.SERVING, namespace="0.3.70", announcement=unconfirmed("0.3.70")).plain()
    async with opened(cluster=lambda: cluster) as (_, tab):
        await tab.until("document.querySelector('#cluster .trouble')")
        text = await tab.text()
        assert "joins the exo cluster 0.3.70, which nobody has confirmed" in text
        assert "enabled = false under [cluster]" in text
        assert tab.problems == []


async def test_without_a_model_the_chat_offers_nothing_and_the_first_one_opens_it() -> None:
    async with world(cards={}) as server, browser() as tab:
        await tab.open(server.url)
        await tab.until("document.body.innerText.includes('There is no model to ask yet.')")
        assert "exo-rkllm search qwen3" in await tab.text()
        await tab.until("document.querySelector('.welcome button')")
        on = "['question', 'send'].every((id) => document.getElementById(id)?.disabled === false)"
        assert not await tab.run(f"document.getElementById('model') || {on}")
        (server.folder / "qwen").mkdir()
        (server.folder / "qwen" / "model.toml").write_text(f'id = "qwen"\n{CARDS["qwen"]}')
        await tab.send("Page.reload")
        await tab.until(f"{on} && document.body.innerText.includes('Ask the board something.')")
        assert tab.problems == []


async def test_only_who_may_control_has_the_buttons() -> None:
    async with opened() as (_, tab):
        await tab.until("document.querySelectorAll('#model-list li').length === 5")
        assert await tab.run("document.querySelectorAll('#model-list button').length") == 0
        await use_key(tab, "sesame")
        await tab.until("document.querySelectorAll('#model-list button[aria-label^=Load]').length === 5")
        assert await tab.run("document.querySelectorAll('#model-list button[aria-label^=Remove]').length") == 5
        await tab.run("document.querySelector('[aria-label=\"Load qwen\"]').click()")
        await tab.until("document.querySelector('[aria-label=\"Unload qwen\"]')")
        await tab.run("document.querySelector('[aria-label=\"Unload qwen\"]').click()")
        await tab.until("document.querySelector('[aria-label=\"Load qwen\"]')")
        assert tab.problems == []


async def test_key_that_is_being_typed_outlives_what_the_daemon_says_meanwhile() -> None:
    """Each status drew the dialog anew with the old key, and took away what had been typed."""
    async with opened() as (_, tab):
        await tab.until(LANES)
        await tab.run("document.getElementById('open-key').click()")
        await tab.run("document.getElementById('key').focus()")
        await tab.type("ses")
        heard = await tab.run("performance.now()")
        await tab.until(f"performance.now() > {heard} + 2500")
        await tab.type("ame")
        await tab.press("Enter")
        await tab.until("document.querySelectorAll('#model-list button[aria-label^=Load]').length === 5")


async def test_question_whether_to_remove_does_not_call_the_keyboard_back() -> None:
    async with opened() as (_, tab):
        await use_key(tab, "sesame")
        await tab.until("document.querySelector('[aria-label=\"Remove qwen\"]')")
        await tab.run("document.querySelector('[aria-label=\"Remove qwen\"]').click()")
        await tab.until("document.activeElement.innerText === 'Remove files'")
        await tab.run("document.getElementById('open-key').focus()")
        heard = await tab.run("performance.now()")
        await tab.until(f"performance.now() > {heard} + 2500")
        assert await tab.run("document.activeElement.id") == "open-key"


async def test_off_loopback_the_page_asks_for_a_key() -> None:
    async with opened(settings=ApiServerSettings(keys=KEYS.keys, loopback=False)) as (_, tab):
        await tab.until("document.getElementById('key-box')?.open")
        assert "Orange Pi" not in await tab.text()
        await tab.run("document.getElementById('key').value = 'wrong'")
        await tab.press("Enter")
        refused = "document.getElementById('key-box').innerText.includes('does not know this key')"
        await tab.until(f"document.getElementById('key-box').open && {refused}")  # it is drawn before it opens
        await tab.run("document.getElementById('key').value = 'guest'")
        await tab.press("Enter")
        await tab.until(LANES)


async def test_keyboard_reaches_everything_in_order() -> None:
    async with opened() as (_, tab):
        await tab.until("document.querySelectorAll('#model option').length === 5")
        await tab.run("document.activeElement.blur()")
        seen = []
        for _ in range(11):
            await tab.press("Tab")
            seen.append(await tab.run("document.activeElement.id || document.activeElement.textContent.trim()"))
            focused = "getComputedStyle(document.activeElement).outlineStyle"
            assert await tab.run(focused) != "none"
        assert seen[:4] == ["Skip to the chat", "open-key", "fresh", "Import"]
        assert seen[4] == "talk"
        assert seen[5].startswith("Explain how an NPU")
        assert seen[8:] == ["question", "model", "open-settings"], "the model does not see"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [(360, 740), (1024, 600), (1366, 768)], ids=["phone", "touch", "desk"])
async def test_every_width_and_both_colours_are_readable(size: tuple[int, int], dark: bool) -> None:
    width, height = size
    async with opened(look={"width": width, "height": height, "dark": dark}) as (_, tab):
        await tab.until(LANES)
        assert await tab.run("document.documentElement.scrollWidth") <= width
        assert await tab.run("document.documentElement.scrollHeight") <= height
        assert await tab.run("document.getElementById('question').getBoundingClientRect().bottom") < height
        if width < 800:
            await tab.run("document.getElementById('view-board').click()")
        await tab.until("Math.min(...[...document.querySelectorAll('canvas')].map((one) => one.clientWidth)) > 100")
        low = await tab.run(CONTRAST)
        assert low == [], low


async def test_lanes_begin_with_the_last_hour_from_the_daemon() -> None:
    now = time.time()
    past = tuple(HistoryPoint(now - 3500 + 5 * n, (0.5, 0.5, 0.5), 12.5, 51.0) for n in range(690))
    async with opened(history=lambda: past) as (_, tab):
        await tab.until(LANES)
        await tab.run("""((box) => { box.value = '1 hour'; box.dispatchEvent(new Event('change')); })
            (document.querySelector('#npu select'))""")
        await tab.run("window.canvas = document.querySelector('.lane.c1 canvas'); null")
        drawn = "canvas.getContext('2d').getImageData(canvas.width * 0.3, canvas.height - 3, 1, 1).data[3]"
        await tab.until(f"{drawn} > 0")


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
