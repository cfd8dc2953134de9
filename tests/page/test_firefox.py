"""The page in Firefox: it is whole, live, answers, and complains of nothing."""

from __future__ import annotations

import pytest

from tests.api.world import world
from tests.page.firefox import PROGRAM, firefox
from tests.page.opening import BOARD, CHOOSE, DONE, KEYS, LANES
from tests.page.test_chat import MARKDOWN

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Firefox on this machine (apt install firefox-esr)")

TYPE = """((box) => {{ box.value = {!r}; box.dispatchEvent(new Event('input', {{ bubbles: true }})); return true; }})
(document.getElementById('question'))"""


async def test_page_works_in_firefox() -> None:
    async with world(settings=KEYS, board=lambda: BOARD, answers={"show": MARKDOWN}) as server, firefox() as tab:
        await tab.open(server.url)
        await tab.until(LANES)
        assert "Orange Pi 5" in await tab.run("document.title")
        assert await tab.run("document.getElementById('pill').textContent") == "ready"
        await tab.run(CHOOSE.format("qwen"))
        await tab.run(TYPE.format("show"))
        await tab.until("document.getElementById('send')?.disabled === false")
        await tab.run("document.getElementById('send').click()")
        await tab.until(
            f"{DONE} && document.querySelector('.said.board .katex') && document.querySelector('.hljs-keyword')"
        )
        assert await tab.run("document.querySelectorAll('.said.board table').length") > 0
        assert await tab.run("document.documentElement.scrollWidth <= innerWidth")
        await tab.run("document.getElementById('open-settings').click()")
        await tab.until("document.getElementById('settings').open")
        assert await tab.run("indexedDB.databases().then((all) => all.length)") > 0
        assert tab.problems == []
