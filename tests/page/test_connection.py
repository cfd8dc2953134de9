"""What the page shows when the daemon stops, fails or is gone: no old figure as a new one, no lost question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from exo_rkllm.dispatch.state import DispatchLimits
from tests.api.world import World
from tests.page.browser import Tab
from tests.page.opening import ANSWERS, DONE, ask, eventually, needs_chromium, opened, press

pytestmark = needs_chromium

PILL = "document.getElementById('pill').textContent"
OLD = "document.querySelector('.page').classList.contains('old')"


class Proxy:
    """Between browser and daemon, so that a test can take the daemon away and give it back."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def take_away(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._copy(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()


@asynccontextmanager
async def through_proxy() -> AsyncIterator[tuple[World, Tab, Proxy]]:
    async with opened() as (server, tab):
        proxy = Proxy(server.port)
        await proxy.open()
        await tab.open(f"http://127.0.0.1:{proxy.port}")
        await tab.until(f"{PILL} === 'ready'")
        yield server, tab, proxy
        await proxy.take_away()


async def test_gone_daemon_dims_every_figure_and_the_page_comes_back_by_itself() -> None:
    async with through_proxy() as (_, tab, proxy):
        await proxy.take_away()
        await tab.until(f"{PILL} === 'no connection' && {OLD}", 3)
        assert "No connection since" in await tab.text()
        dimmed = """((style) => [...document.querySelectorAll('#board-side .card')].map((one) => getComputedStyle(one))
            .every(({filter, color}) => filter === 'grayscale(1)' && color === style.color))
            (getComputedStyle(document.querySelector('dt')))"""
        assert await tab.run(dimmed)
        assert float(await tab.run("getComputedStyle(document.querySelector('.lane canvas')).opacity")) < 0.6
        since = await tab.run("document.querySelector('#notice strong').textContent")
        await asyncio.sleep(1.5)
        assert await tab.run("document.querySelector('#notice strong').textContent") == since
        await proxy.open()
        await tab.until(f"{PILL} === 'ready' && !{OLD} && document.getElementById('notice').hidden", 8)


async def test_question_asked_while_the_daemon_is_gone_is_kept_and_can_be_asked_again() -> None:
    async with through_proxy() as (_, tab, proxy):
        await proxy.take_away()
        await ask(tab, "«Here I am.»", "qwen")
        await tab.until("document.querySelector('.said.board .trouble')")
        assert "The daemon cannot be reached." in await tab.text()
        assert await tab.run("document.querySelector('.said.user .text').textContent") == "«Here I am.»"
        await proxy.open()
        await tab.until(f"{PILL} === 'ready'", 8)
        await press(tab, "Retry")
        await tab.until(f"{DONE} && document.querySelector('.said.board .markdown')?.innerText === 'Here I am.'")
        assert await tab.run(f"{ANSWERS}.length") == 1


async def test_answer_that_breaks_off_keeps_what_was_said_and_offers_both_ways_on() -> None:
    async with through_proxy() as (server, tab, proxy):
        await ask(tab, "«" + "on and on " * 100 + "»", "slow")
        await tab.until(f"{ANSWERS}[0]?.innerText.includes('on and on')")
        await proxy.take_away()
        await tab.until("document.querySelector('.said.board .trouble')", 5)
        assert "on and on" in await tab.run(f"{ANSWERS}[0].innerText")
        await proxy.open()
        await tab.until(f"{PILL} !== 'no connection'", 8)
        await press(tab, "Continue")
        await tab.until("document.getElementById('stop')")
        await eventually(lambda: len(server.ledger.requests) == 2)
        assert "on and on" in (server.ledger.requests[1].prompt or "")
        await tab.press("Escape")


async def test_draining_daemon_says_stopping() -> None:
    async with opened(limits=DispatchLimits()) as (server, tab):
        await ask(tab, "«" + "on and on " * 60 + "»", "slow")
        await tab.until(f"{ANSWERS}[0]?.innerText.includes('on and on')")
        draining = asyncio.create_task(server.dispatcher.drain(30))
        await tab.until(f"{PILL} === 'stopping'")
        assert "The daemon is stopping." in await tab.text()
        await tab.until(f"{DONE}", 30)
        assert "on and on" in await tab.run(f"{ANSWERS}[0].innerText")
        await draining


async def test_error_of_the_daemon_stands_in_the_bubble_with_retry() -> None:
    async with opened() as (_, tab):
        await ask(tab, "«!break and more words»", "qwen")
        await tab.until("document.querySelector('.said.board .trouble')")
        assert "The runtime gave up." in await tab.run(f"{ANSWERS}[0].innerText")
        assert await tab.run("document.querySelector('.said.board .tools button').textContent") == "Retry"
        await press(tab, "Retry")
        await tab.until("document.querySelector('.said.board .trouble')")
        assert await tab.run(f"{ANSWERS}.length") == 1
