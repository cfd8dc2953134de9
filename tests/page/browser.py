"""Real Chromium, spoken to in its own DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
TASKS = ("RunTask", "ThreadControllerImpl::RunTask")


class Tab:
    """One page. `problems` collects what the browser complained of: errors, refused resources, exceptions."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())
        self.problems: list[str] = []
        self.urls: list[str] = []
        self._traced: list[dict[str, Any]] = []
        self._trace_ended = asyncio.Event()

    async def close(self) -> None:
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
        await self._socket.close()

    async def _read(self) -> None:
        async for message in self._socket:
            event = message.json()
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
            else:
                self._note(event["method"], event["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"].get("exception", {}).get("description", params)))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Tracing.dataCollected":
            self._traced += params["value"]
        elif method == "Tracing.tracingComplete":
            self._trace_ended.set()
        elif method == "Network.requestWillBeSent":
            self.urls.append(params["request"]["url"])

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        found = await asyncio.wait_for(answer, 20)
        assert "error" not in found, found
        result: dict[str, Any] = found["result"]
        return result

    async def open(self, url: str, *, width: int = 1280, height: int = 800, dark: bool = False) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        await self.look(width, height, dark=dark)
        await self.send("Page.navigate", url=url)
        await self.until("location.protocol === 'http:' && document.readyState === 'complete'")

    async def look(self, width: int, height: int, *, dark: bool = False) -> None:
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])

    async def run(self, script: str) -> Any:
        found = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str, seconds: float = 10) -> None:
        """Returns when the expression is true."""
        for _ in range(int(seconds / 0.05)):
            if await self.run(f"!!({script})"):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true: {script}; the page says: {await self.text()}; problems: {self.problems}")

    async def trace(self) -> None:
        """From now on, remember what the browser's threads do, until `tasks`."""
        self._traced.clear()
        self._trace_ended.clear()
        categories = ["disabled-by-default-devtools.timeline", "devtools.timeline", "toplevel", "__metadata"]
        await self.send("Tracing.start", traceConfig={"includedCategories": categories}, transferMode="ReportEvents")

    async def tasks(self) -> list[float]:
        """Milliseconds of processor time that the tasks of the page's main thread took; a busy machine adds nothing."""
        await self.send("Tracing.end")
        await asyncio.wait_for(self._trace_ended.wait(), 30)
        main = {
            (event["pid"], event["tid"])
            for event in self._traced
            if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
        }
        return sorted(
            event["tdur"] / 1000
            for event in self._traced
            if event["name"] in TASKS and (event["pid"], event["tid"]) in main and "tdur" in event
        )

    async def text(self) -> str:
        return str(await self.run("document.body.innerText"))

    async def press(self, key: str, modifiers: int = 0) -> None:
        text = {"Enter": "\r"}.get(key, "")
        code = {"Enter": 13, "Tab": 9, "Escape": 27}[key]
        for kind in ("keyDown", "keyUp"):
            await self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                modifiers=modifiers,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    async def type(self, text: str) -> None:
        await self.send("Input.insertText", text=text)

    async def picture(self, path: Path, *, whole: bool = False) -> None:
        found = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))  # noqa: ASYNC240 - a test's own file


@asynccontextmanager
async def browser() -> AsyncIterator[Tab]:
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            PROGRAM,
            *FLAGS,
            f"--user-data-dir={profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            port = await _port(Path(profile) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as http:
                async with http.get(f"http://127.0.0.1:{port}/json") as response:
                    pages = [one for one in await response.json() if one["type"] == "page"]
                socket = await http.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)
                tab = Tab(socket)
                try:
                    yield tab
                finally:
                    await tab.close()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _port(path: Path) -> int:
    for _ in range(400):
        with suppress(OSError, ValueError, IndexError):
            return int(path.read_text().split()[0])  # noqa: ASYNC240 - a test's own file
        await asyncio.sleep(0.05)
    raise AssertionError("Chromium did not start within 20 s")
