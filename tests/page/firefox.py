"""Real Firefox, spoken to in WebDriver BiDi, which it has built in."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

PROGRAM = shutil.which("firefox-esr") or shutil.which("firefox")
# Nothing of it asks anybody else.
SETTINGS = """
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("toolkit.telemetry.enabled", false);
user_pref("app.update.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("browser.startup.page", 0);
"""


class FirefoxTab:
    """One page; `problems` collects what its console complained of."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._context = ""
        self.problems: list[str] = []

    async def begin(self) -> None:
        await self.send("session.new", capabilities={})
        await self.send("session.subscribe", events=["log.entryAdded"])
        self._context = (await self.send("browsingContext.getTree"))["contexts"][0]["context"]

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            answer = await asyncio.wait_for(self._socket.receive_json(), 20)
            if answer.get("method") == "log.entryAdded" and answer["params"]["level"] == "error":
                self.problems.append(str(answer["params"]["text"]))
            if answer.get("id") == number:
                assert answer["type"] == "success", answer
                result: dict[str, Any] = answer["result"]
                return result

    async def open(self, url: str) -> None:
        await self.send("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def run(self, script: str) -> Any:
        """The value of an expression, by way of JSON."""
        target = {"context": self._context}
        expression = f"(async () => JSON.stringify((await ({script})) ?? null))()"
        found = await self.send("script.evaluate", expression=expression, target=target, awaitPromise=True)
        assert found["type"] == "success", found
        return json.loads(found["result"]["value"])

    async def until(self, script: str, seconds: float = 10) -> None:
        for _ in range(int(seconds / 0.1)):
            if await self.run(f"!!({script})"):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"never true: {script}; the page says: {await self.run('document.body.innerText')}")


@asynccontextmanager
async def firefox() -> AsyncIterator[FirefoxTab]:
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        profile = Path(folder)
        (profile / "user.js").write_text(SETTINGS)
        command = [
            PROGRAM,
            "--headless",
            "--no-remote",
            "--profile",
            folder,
            "--remote-debugging-port=0",
            "about:blank",
        ]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True
        )
        try:
            port = await _port(profile / "WebDriverBiDiServer.json")
            async with aiohttp.ClientSession() as http:
                socket = await http.ws_connect(f"ws://127.0.0.1:{port}/session", max_msg_size=0)
                tab = FirefoxTab(socket)
                await tab.begin()
                yield tab
                await socket.close()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _port(path: Path) -> int:
    for _ in range(600):
        with suppress(OSError, ValueError, KeyError):
            return int(json.loads(path.read_text())["ws_port"])  # noqa: ASYNC240 - a test's own file
        await asyncio.sleep(0.05)
    raise AssertionError("Firefox did not start within 30 s")
