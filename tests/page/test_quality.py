"""axe-core objects to nothing, whatever the page shows."""

from __future__ import annotations

from typing import Any

from tests.page.browser import Tab
from tests.page.npm import installed
from tests.page.opening import DONE, LANES, ask, needs_chromium, opened, press
from tests.page.test_board import use_key
from tests.page.test_chat import MARKDOWN
from tests.page.test_connection import OLD, through_proxy

pytestmark = needs_chromium


async def check(tab: Tab) -> None:
    await tab.run((installed() / "node_modules/axe-core/axe.min.js").read_text() + ";null")
    found: list[Any] = await tab.run(
        "axe.run().then(({violations}) => violations.map(({id, nodes}) => [id, nodes.map(({html}) => html)]))"
    )
    assert found == [], found


async def test_axe_core_objects_to_nothing_in_any_state() -> None:
    async with opened(answers={"show": MARKDOWN}) as (_, tab):
        await tab.until(LANES)
        await check(tab)
        await ask(tab, "show", "thinker")
        await tab.until(f"{DONE} && document.querySelector('.katex')")
        await ask(tab, "«!break and more words»")
        await tab.until("document.querySelector('.said .trouble')")
        await ask(tab, "«" + "on and on " * 300 + "»", "slow")
        await tab.until("document.getElementById('stop')")
        await check(tab)
        await tab.run("document.querySelector('.menu summary').click()")
        await check(tab)
        await tab.run(
            "document.querySelector('.menu summary').click(); document.getElementById('open-settings').click()"
        )
        await check(tab)
        await tab.run("document.getElementById('settings').close(); document.getElementById('open-key').click()")
        await check(tab)
        await tab.run("document.getElementById('key-box').close()")
        await use_key(tab, "sesame")
        await press(tab, "Find models")
        await check(tab)
        await tab.run("document.getElementById('gallery').close()")
        for size, view in (((1024, 600), "conversations"), ((360, 740), "board"), ((360, 740), "chat")):
            await tab.look(*size, dark=True)
            await tab.run(f"document.querySelector('.views .{view}').click()")
            await check(tab)


async def test_axe_core_objects_to_nothing_once_the_daemon_is_gone() -> None:
    """Dimmed is not illegible."""
    async with through_proxy() as (server, tab, proxy):
        await server.dispatcher.load("qwen")
        await tab.until("document.body.innerText.includes('1 of 5 loaded')")
        await proxy.take_away()
        await tab.until(OLD)
        for dark in (False, True):
            await tab.look(1366, 768, dark=dark)
            await check(tab)
