"""The pictures in docs/screenshots, taken of the real page: `python -m tests.page.screenshots`.

The board's readings and the answers are made up; page, server, queue and browser are real.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from exo_rkllm.api.context import ApiKey, ApiServerSettings
from exo_rkllm.board.history import HistoryPoint
from exo_rkllm.catalogue.choice import BoardRoom, made_for_others
from exo_rkllm.catalogue.downloads import Downloads
from exo_rkllm.catalogue.gallery import GalleryItem
from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.config import ApiSettings
from tests.api.world import World, world
from tests.page.browser import browser
from tests.page.opening import DONE, ask, press
from tests.page.test_connection import Proxy

FOLDER = Path(__file__).parent.parent.parent / "docs" / "screenshots"
SETTINGS = ApiServerSettings(
    ApiSettings(loopback_open=True),
    keys=(ApiKey("desk", "sesame", control=True), ApiKey("kitchen", "k"), ApiKey("home-assistant", "h")),
)
CARDS = {
    "qwen3-1.7b": 'engine = "scripted"\nquantization = "w8a8"\ncontext = 16384\n[chat]\nfamily = "qwen3"\n[options]\n'
    "pace = 0.055\n",
    "deepseek-r1-7b": 'engine = "scripted"\nquantization = "w8a8"\ncontext = 8192\n[chat]\nfamily = "deepseek-r1"\n',
    "gemma-3-4b-it": 'engine = "scripted"\nquantization = "w4a16"\ncontext = 4096\n',
}
QUESTION = "Sum the squares of the first ten numbers in Python."
LONG = "Now explain how a three-core NPU shares one token."
ANSWERS = {
    QUESTION: "<think>\nA generator expression will do.\n</think>\n\nLike this:\n\n```python\n"
    "print(sum(n * n for n in range(10)))\n```\n\nIt prints **285**, since $\\sum_{n=0}^{9} n^2 = 285$.",
    LONG: "<think>\nKeep it short.\n</think>\n\n"
    + "Every layer's matrices are cut into three slices, one for each core. The cores work on the same token at the "
    "same time, and their results are put together before the next layer begins. That is why the three lanes rise and "
    "fall together. " * 4,
}
CLUSTER: dict[str, Any] = {
    "phase": "serving",
    "namespace": "0.3.71",
    "master": "m",
    "nodes": [
        {"id": "m", "name": "studio", "model": "Mac Studio", "chip": "M3 Ultra", "master": True, "me": False},
        {"id": "o", "name": "orangepi", "model": "Orange Pi 5 Plus", "chip": "RK3588", "master": False, "me": True},
    ],
    "instances": [{"id": "i", "model": "qwen3-1.7b", "node": "orangepi", "status": "ready", "tasks": 0, "mine": True}],
}


def _item(repo: str, file: str, gigabytes: float, downloads: int, **more: Any) -> GalleryItem:
    quantization = "w4a16" if "w4a16" in file else "w8a8"
    size = int(gigabytes * 1e9)
    return GalleryItem(f"{repo}:{file}", repo, file, quantization, size, downloads, **more)


GALLERY = (
    _item("maker/Qwen3-1.7B-RKLLM", "Qwen3-1.7B_w8a8_rk3588.rkllm", 2.37, 812),
    _item("maker/Qwen3-VL-2B-RKLLM", "Qwen3-VL-2B_w8a8.rkllm", 2.9, 410, sees=True),
    _item("maker/Qwen3-8B", "Qwen3-8B_w8a8.rkllm", 8.8, 95, note=BoardRoom(free=7_900_000_000).note(8_800_000_000)),
    _item("maker/Qwen3-4B", "w4a16.rkllm", 0, 60, unfit=made_for_others(["rk3576.rkllm"], "maker/Qwen3-4B", "rk3588")),
)


async def found(words: str) -> tuple[GalleryItem, ...]:
    return GALLERY


async def pulling(target: str) -> AsyncGenerator[PullProgress, None]:
    for step in range(200):
        yield PullProgress("downloading", target, done=step * 25_000_000, total=2_900_000_000)
        await asyncio.sleep(0.5)


def board() -> dict[str, Any]:
    now = time.monotonic()
    loads = [0.62 + 0.2 * math.sin(now * 0.9 + core / 3) + 0.14 * math.sin(now * 3.1 + core) for core in range(3)]
    return {
        "title": "Orange Pi 5 Plus",
        "soc": "RK3588",
        "tops": 6,
        "kernel": "6.1.99-vendor-rk35xx",
        "driver": {"name": "RKNPU", "version": "0.9.8", "cores": 3},
        "powered": True,
        "load": [min(1.0, max(0.0, load)) for load in loads],
        "clock": {"hertz": 1_000_000_000, "governor": "rknpu_ondemand", "throttled": False},
        "celsius": 52.7,
        "memory_total": 16_500_000_000,
        "memory_available": 11_200_000_000,
        "absent": {},
    }


async def wait(server: World, key: str) -> None:
    body = {"model": "qwen3-1.7b", "messages": [{"role": "user", "content": "And me?"}]}
    headers = {"Authorization": f"Bearer {key}"}
    async with server.http.post(f"{server.url}/v1/chat/completions", json=body, headers=headers) as response:
        await response.read()


def history() -> tuple[HistoryPoint, ...]:
    """An hour in which somebody asked now and then."""
    points = []
    for number in range(720):
        moment = time.time() - 3600 + 5 * number
        busy = max(0.0, math.sin(number / 28)) ** 0.5
        load = tuple(busy * (0.75 + 0.2 * math.sin(number * 0.9 + core)) for core in range(3))
        points.append(HistoryPoint(moment, load, busy * 15, 48 + 6 * busy))
    return tuple(points)


async def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    downloads = Downloads(pulling, lambda _target, _file: None)
    more: dict[str, Any] = {
        "cluster": lambda: CLUSTER,
        "cards": CARDS,
        "answers": ANSWERS,
        "history": history,
        "gallery": found,
        "downloads": downloads,
    }
    async with world(settings=SETTINGS, board=board, **more) as server, browser() as tab:
        proxy = Proxy(server.port)
        await proxy.open()
        await tab.open(f"http://127.0.0.1:{proxy.port}", width=1366, height=768)
        await tab.run("sessionStorage.setItem('key', 'sesame')")
        await tab.send("Page.reload")
        await tab.until("document.querySelectorAll('.lane').length === 4")
        await ask(tab, QUESTION, "qwen3-1.7b")
        await tab.until(f"{DONE} && document.querySelector('.katex') && document.querySelector('.hljs-built_in')", 60)
        await ask(tab, LONG)
        others = [asyncio.create_task(wait(server, key)) for key in ("k", "h")]
        await asyncio.sleep(8)
        await tab.picture(FOLDER / "status-light.png")
        await tab.run("""((box) => { box.value = '1 hour'; box.dispatchEvent(new Event('change')); })
            (document.querySelector('#npu select'))""")
        await tab.look(1366, 768, dark=True)
        await asyncio.sleep(2)
        await tab.picture(FOLDER / "status-dark.png")
        await tab.look(1024, 600)
        await asyncio.sleep(2)
        await tab.picture(FOLDER / "status-touch.png")
        await tab.look(360, 740)
        await asyncio.sleep(2)
        await tab.picture(FOLDER / "status-phone.png")
        await tab.look(1366, 768)
        for other in others:
            other.cancel()
        downloads.start(GALLERY[1].target)
        await press(tab, "Find models")
        await tab.run("document.getElementById('gallery-words').value = 'qwen3'")
        await press(tab, "Search")
        await asyncio.sleep(2)
        await tab.picture(FOLDER / "status-gallery.png")
        await press(tab, "Close")
        await proxy.take_away()
        await tab.until("document.querySelector('.page.old')", 20)
        await asyncio.sleep(1)
        await tab.picture(FOLDER / "status-lost.png")
    await downloads.close()


if __name__ == "__main__":
    asyncio.run(main())
