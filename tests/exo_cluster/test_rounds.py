"""What happens to boards again and again: after each of it, every model is offered to exo and answers through it.

`TESTS_ROUNDS=200` runs as many rounds as a board sees in months; the suite runs one of each kind.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exo_rkllm.errors import NpuUnavailable
from tests.daemon.conftest import board_house as board_house
from tests.daemon.conftest import house as house
from tests.daemon.running import Daemon, House
from tests.exo_cluster.dashboard import Dashboard
from tests.exo_cluster.lab import until
from tests.exo_cluster.test_dashboard import PLAIN, Owner
from tests.exo_cluster.test_dashboard import owner_of as owner_of
from tests.exo_cluster.test_node import Exo, started

ROUNDS = int(os.environ.get("TESTS_ROUNDS", "0"))
MODELS = ("first", "second")
WITHIN = 10.0


class Months:
    """One daemon in the cluster of one exo node, and what may happen to it."""

    def __init__(self, house: House, exo: Exo) -> None:
        self.house = house
        self.exo = exo
        self.dashboard = Dashboard(f"http://127.0.0.1:{exo.api}")
        self.daemon = self.start()
        self.asking: asyncio.Task[str] | None = None

    def start(self) -> Daemon:
        return self.house.start(
            EXO_RKLLM_CLUSTER_ENABLED="true",
            EXO_RKLLM_CLUSTER_NAMESPACE="0.3.70",
            EXO_RKLLM_CLUSTER_ENDPOINTS=self.exo.endpoint,
            EXO_RKLLM_CLUSTER_DISCOVERY_PORT=str(self.exo.discovery),
            EXO_RKLLM_CLUSTER_API_PORT=str(self.exo.api),
        )

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.daemon.process.pid}/task/{self.daemon.process.pid}/children")
        found = map(int, path.read_text().split())
        return [pid for pid in found if b"runner" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def kill(self) -> None:
        for pid in self.children():
            os.kill(pid, signal.SIGKILL)

    async def killed_idle(self) -> None:
        self.kill()

    async def killed_amid_an_answer(self) -> None:
        asking = asyncio.create_task(self.dashboard.chat("rkllm/first", "count"))
        await asyncio.sleep(random.uniform(0.0, 0.5))
        self.kill()
        await asking

    async def removed_and_imported_again(self) -> None:
        folder, away = self.house.models / "second", self.house.folder / "away"
        shutil.move(folder, away)
        began = time.monotonic()
        await until(lambda: self.shows("second", ""), WITHIN)
        assert time.monotonic() - began < WITHIN
        shutil.move(away, folder)

    async def daemon_restarted(self) -> None:
        assert await asyncio.to_thread(self.daemon.stop) == 0
        self.daemon = await asyncio.to_thread(self.start)

    async def daemon_killed(self) -> None:
        self.daemon.process.kill()
        await asyncio.to_thread(self.daemon.process.wait)
        self.daemon = await asyncio.to_thread(self.start)

    async def shows(self, name: str, what: str) -> bool:
        self.daemon.hear()  # as systemd does; a daemon whose notifications nobody takes waits for that
        return await self.dashboard.shows(f"rkllm/{name}") == what

    async def all_answer(self) -> float:
        """Seconds until every model is offered and has answered."""
        began = time.monotonic()
        for name in MODELS:
            await until(lambda name=name: self.shows(name, "READY"), WITHIN)  # type: ignore[misc]
            await until(lambda name=name: self.answers(name), WITHIN)  # type: ignore[misc]
        return time.monotonic() - began

    async def answers(self, name: str) -> bool:
        return (await self.dashboard.chat(f"rkllm/{name}", "Hi")).strip() == f"I am {name}"


EVENTS: tuple[Callable[[Months], Any], ...] = (
    Months.killed_idle,
    Months.killed_amid_an_answer,
    Months.removed_and_imported_again,
    Months.daemon_restarted,
    Months.daemon_killed,
)


async def test_every_model_answers_through_exo_after_whatever_happened(
    board_house: House, make_model: Callable[..., Path]
) -> None:
    exo = await started()
    try:
        for name in MODELS:
            board_house.simulated(name, make_model, reply=f"I am {name}", decode_tps=20)
        months = await asyncio.to_thread(Months, board_house, exo)
        await months.all_answer()
        slowest = 0.0
        for number, event in enumerate(itertools.islice(itertools.cycle(EVENTS), ROUNDS or len(EVENTS))):
            await event(months)
            took = await months.all_answer()
            slowest = max(slowest, took)
            print(f"round {number}: {event.__name__} {took:.1f} s")
            assert took < WITHIN, event.__name__
        print(f"slowest: {slowest:.1f} s")
        assert await asyncio.to_thread(months.daemon.stop) == 0
    finally:
        await exo.end()


async def test_models_answer_each_time_the_driver_was_bound_again(owner_of: Any) -> None:
    owner: Owner = await owner_of(plain={"reply": "Hello"})
    for _ in range(ROUNDS // 5 or 2):
        assert await owner.dashboard.chat(PLAIN, "Hi") == "Hello"
        owner.dispatcher.npu_unavailable(NpuUnavailable("The driver was unbound.", "exo-rkllm board"))
        await owner.shown(PLAIN, "")
        owner.dispatcher.npu_available()
        await owner.shown(PLAIN, "READY", WITHIN)
