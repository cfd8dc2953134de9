"""exo's dashboard and clients of its API as an owner meets them, asking one node of the cluster."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp

# What exo's dashboard adds to every message, whatever the model can.
HABITS = {
    "temperature": 0.7,
    "stream": True,
    "logprobs": True,
    "top_logprobs": 5,
    "enable_thinking": True,
}
# A runner in one of these is one that the dashboard lets a message go to.
ANSWERS = {"RunnerReady", "RunnerRunning"}


class Dashboard:
    """`exo` is the base address of a node's API."""

    def __init__(self, exo: str) -> None:
        self.exo = exo

    async def state(self) -> Any:
        async with aiohttp.ClientSession() as session, session.get(f"{self.exo}/state") as answer:
            return await answer.json()

    async def shows(self, model: str) -> str:
        """What it says beside a model: READY, PREPARING, or nothing where the model is not offered."""
        state = await self.state()
        for wrapped in state["instances"].values():
            (instance,) = wrapped.values()
            shards = instance["shardAssignments"]
            if shards["modelId"] == model:
                statuses = [next(iter(state["runners"].get(one, {"": 0}))) for one in shards["runnerToShard"]]
                return "READY" if set(statuses) <= ANSWERS else "PREPARING"
        return ""

    async def chat(self, model: str, text: Any, *, patience: float = 10.0, **more: Any) -> str:
        """The text in the box of the answer; empty where nothing came that the dashboard shows, such as an error.

        A message for a model that never becomes ready is swallowed.
        """
        until = time.monotonic() + patience
        while await self.shows(model) != "READY":
            if time.monotonic() > until:
                return ""
            await asyncio.sleep(0.1)
        body = {"model": model, "messages": [{"role": "user", "content": text}], **HABITS, **more}
        box = ""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.exo}/v1/chat/completions", json=body) as answer,
        ):
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    event = json.loads(line.removeprefix(b"data: "))
                    for choice in event.get("choices", ()):
                        box += choice["delta"].get("content") or ""
        return box

    async def post(self, path: str, body: Any) -> tuple[int, str]:
        """What any other client of exo's API gets: the status, and the body as it came."""
        async with aiohttp.ClientSession() as session, session.post(f"{self.exo}{path}", json=body) as answer:
            return answer.status, await answer.text()
