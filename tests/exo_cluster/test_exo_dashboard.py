"""A chat typed in exo's own dashboard in Chromium, with real exo, a whole daemon and cold models.

`EXO_PYTHON` names a Python that has exo, `EXO_DASHBOARD` the dashboard that exo's own build made (tests/exo_cluster/
real.py). `EXO_SCREENSHOT` names a file for what the browser shows at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.daemon.conftest import board_house as board_house
from tests.daemon.conftest import house as house
from tests.daemon.running import Daemon, House
from tests.exo_cluster import real
from tests.exo_cluster.dashboard import Dashboard
from tests.exo_cluster.lab import until
from tests.exo_cluster.test_node import Exo, free_ports
from tests.page.browser import Tab, browser
from tests.page.opening import needs_chromium
from tools.demo_board import DemoBoard, follows

pytestmark = [
    needs_chromium,
    pytest.mark.skipif(
        not (real.PYTHON and real.DASHBOARD), reason="EXO_PYTHON and EXO_DASHBOARD name no exo and its dashboard"
    ),
]

LOAD_SECONDS = 3.0
WITHIN = 1.0  # beyond the load
PLAIN, THINKER = "qwen2.5-1.5b", "qwen3-1.7b"
ANSWERS = {
    PLAIN: "A board with an NPU answers you.",
    THINKER: "Each of its three cores computes a slice of every layer.",
}
# What stands on the page first.
FIRST = {PLAIN: "A board", THINKER: "Thinking..."}
THOUGHT = "They ask about the cores."
# Asked for the picture only, and long enough for the gauges, which come every 5 s, to show a board at work.
AT_WORK, LONG = "Show me", "While it answers, its load and temperature rise in the topology on the right. " * 36
# When the first words of an answer stand on the page; the page's own clock, so that this test's haste does not count.
WATCH = """window.answered = new Promise((resolve) => {{
    const look = () => document.body.textContent.includes({!r}) && (observer.disconnect(), resolve(performance.now()));
    const observer = new MutationObserver(look);
    observer.observe(document.body, {{childList: true, characterData: true, subtree: true}});
}}); window.addEventListener('keydown', () => {{ window.asked = performance.now(); }}, {{capture: true, once: true}})"""
CHOOSE = "[...document.querySelectorAll('[role=button]')].find((one) => one.innerText.includes('rkllm/{}'))"
# An Enter while an answer is still coming is lost.
TAKES = "document.querySelector('textarea') && document.body.innerText.includes('\\nSEND')"
SHOW = "[...document.querySelectorAll('button[aria-controls^=thinking-panel]')].at(-1)"


@contextlib.asynccontextmanager
async def exo_at(folder: Path) -> AsyncIterator[Exo]:
    """Real exo on loopback, with its welcome over."""
    zenoh, api, discovery = free_ports(3)
    words = ("--name", "studio", "--zenoh-port", zenoh, "--api-port", api, "--discovery-port", discovery)
    with (folder / "exo.log").open("wb") as log:
        command = real.command([str(word) for word in words], folder / "exo")
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    exo = Exo(process, zenoh, api, discovery)
    try:
        await until(exo.state, real.STARTS_IN)
        async with aiohttp.ClientSession() as session, session.post(f"http://127.0.0.1:{api}/onboarding") as done:
            assert done.status == 200
        yield exo
    finally:
        await exo.end()


async def type_in(tab: Tab, question: str) -> None:
    await tab.until(TAKES)
    await tab.run("document.querySelector('textarea').focus()")
    await tab.type(question)


async def seconds_to_answer(tab: Tab, model: str, question: str) -> float:
    """From Enter to the first words on the page, of the answer or of the thoughts before it."""
    await tab.until(CHOOSE.format(model))
    await tab.run(CHOOSE.format(model) + ".click()")
    await type_in(tab, question)
    await tab.run(WATCH.format(FIRST[model]) + ", 0")
    await tab.press("Enter")
    found = await tab.run("window.answered.then((at) => at - window.asked)")
    await tab.until(f"document.body.innerText.includes({ANSWERS[model]!r})")
    return float(found) / 1000


async def test_chat_typed_in_exos_dashboard_is_answered_by_cold_models(
    board_house: House, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    speed: dict[str, Any] = {"load_seconds": LOAD_SECONDS, "decode_tps": 60.0, "prefill_tps": 400.0}
    for name, thinking in ((PLAIN, ""), (THINKER, THOUGHT)):
        base = 'base_model = "Qwen/Qwen3-1.7B"\n' if thinking else ""
        board_house.add(name, f'{base}[weights]\nfile = "m.rkllm"\n')
        path = make_model(reply=ANSWERS[name], thinking=thinking, rules=((AT_WORK, LONG),), **speed)
        path.rename(board_house.models / name / "m.rkllm")
    async with exo_at(tmp_path) as exo:
        daemon: Daemon = await asyncio.to_thread(
            board_house.start,
            EXO_RKLLM_CLUSTER_ENABLED="true",
            EXO_RKLLM_CLUSTER_NAME="orangepi",
            EXO_RKLLM_CLUSTER_ENDPOINTS=exo.endpoint,
            EXO_RKLLM_CLUSTER_DISCOVERY_PORT=str(exo.discovery),
            EXO_RKLLM_CLUSTER_API_PORT=str(exo.api),
        )
        dashboard = Dashboard(f"http://127.0.0.1:{exo.api}")

        async def offered() -> bool:
            return {await dashboard.shows(f"rkllm/{name}") for name in ANSWERS} == {"READY"}

        await until(offered, 15)
        with follows(DemoBoard(Path(board_house.environment["RKLLM_SIM_ROOT"])), daemon.client):
            async with browser() as tab:
                await tab.open(dashboard.exo, width=1400, height=860, dark=True)
                plain = await seconds_to_answer(tab, PLAIN, "Who answers me?")
                thinker = await seconds_to_answer(tab, THINKER, "What do its cores do?")
                await tab.until(SHOW)
                await tab.run(SHOW + ".click()")
                await tab.until(f"document.body.innerText.includes({THOUGHT!r})")
                if picture := os.environ.get("EXO_SCREENSHOT"):
                    await type_in(tab, AT_WORK)
                    await tab.press("Enter")
                    await asyncio.sleep(8)
                    await tab.picture(Path(picture))
        loads = {model["name"]: model["load_seconds"] for model in daemon.client.get("/control/status")["models"]}
        print(f"first words after {plain:.2f} s and, thinking, {thinker:.2f} s; loads took {loads}")
        assert plain < loads[PLAIN] + WITHIN
        assert thinker < loads[THINKER] + WITHIN
        assert await asyncio.to_thread(daemon.stop) == 0
