"""The page in Chromium, with a real server behind it and a made-up board."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from exo_rkllm.api.context import ApiKey, ApiServerSettings, Plain
from exo_rkllm.config import ApiSettings
from tests.api.world import World, world
from tests.page.browser import PROGRAM, Tab, browser

needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine (apt install chromium)")

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
CHOOSE = """((box) => {{ box.value = '{}'; box.dispatchEvent(new Event('change', {{bubbles: true}})); }})
(document.getElementById('model'))"""
ANSWERS = "document.querySelectorAll('.said.board')"
LANES = "document.querySelectorAll('.lane').length === 4"
DONE = f"!document.getElementById('stop') && [...{ANSWERS}].every((one) => one.ariaBusy !== 'true')"


@asynccontextmanager
async def opened(
    board: Plain = BOARD, settings: ApiServerSettings = KEYS, look: dict[str, Any] | None = None, **more: Any
) -> AsyncIterator[tuple[World, Tab]]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(world(settings=settings, board=lambda: board, **more))
        tab = await stack.enter_async_context(browser())
        await tab.open(server.url, **(look or {}))
        yield server, tab


async def ask(tab: Tab, text: str, model: str = "") -> None:
    """As a person does: choose, type, Enter."""
    await tab.until("document.getElementById('model')")
    if model:
        await tab.until(f"[...document.getElementById('model').options].some((one) => one.value === '{model}')")
        await tab.run(CHOOSE.format(model))
    await tab.run("document.getElementById('question').focus()")
    await tab.type(text)
    await tab.press("Enter")


async def press(tab: Tab, label: str, within: str = "document") -> None:
    """The last button with that text or name, as a person sees it."""
    found = f"""[...{within}.querySelectorAll('button')]
        .filter((one) => (one.ariaLabel || one.textContent).trim() === '{label}').at(-1)"""
    await tab.until(found)
    await tab.run(f"{found}.click()")


async def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    assert condition()
