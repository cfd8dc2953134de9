"""What it costs to know the NPU: files and CPU of a scrape, and how soundly a daemon sleeps while nobody asks."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.daemon import address, client, daemon
from bench.syscalls import opened
from bench.table import Row, show
from bench.usage import used
from exo_rkllm.board.files import WAKING

SCRAPES = 100
ROUNDS = 5
# With as many models as 16 GB hold, all of which answered, so that every metric is on the page; and with CMA, which is
# one more file.
BOARDS = ("rk3588-busy", "rk3568-cma")
MODELS = 4
IDLE = 60.0
# A scrape counts as somebody who watches for five seconds.
UNWATCHED = 7.0
HEADERS = {"Accept": "application/openmetrics-text;version=1.0.0"}


class Scraper:
    """Keeps its connection, as Prometheus does."""

    def __init__(self, address: str) -> None:
        self._connection = HTTPConnection(address)

    def scrape(self) -> None:
        self._connection.request("GET", "/metrics", headers=HEADERS)
        self._connection.getresponse().read()


def answer(folder: Path, models: int) -> None:
    """One answer of each of so many models."""
    demo = folder / "models/demo"
    for number in range(1, models):
        shutil.copytree(demo, demo.with_name(f"demo{number}"))
        card = demo.with_name(f"demo{number}") / "model.toml"
        card.write_text(card.read_text().replace("demo", f"demo{number}"))
    for card in sorted(demo.parent.iterdir()):
        list(client(folder).stream("POST", "/control/ask", model=card.name, prompt="Who are you?"))


def scrapes(profile: str) -> list[Row]:
    """The HTTP request is part of it, as the daemon pays for that, too."""
    with TemporaryDirectory() as name, daemon(Path(name), profile) as (process, _):
        scraper = Scraper(address(Path(name)))
        if profile == BOARDS[0]:
            answer(Path(name), MODELS)
        scraper.scrape()
        rounds = []
        for _ in range(ROUNDS):
            before = used(process.pid).cpu
            for _ in range(SCRAPES):
                scraper.scrape()
            rounds.append((used(process.pid).cpu - before) / SCRAPES * 1e3)
        rows = [Row(f"a scrape, {profile}", "ms CPU", rounds, "8")]
        time.sleep(UNWATCHED)
        with opened(process.pid) as seen:
            scraper.scrape()
        if seen.paths is not None:
            waking = [path for path in seen.paths if Path(path).name in WAKING or "/dev/" in path]
            rows.append(Row("  files it opens", "", [len(seen.paths)], "30"))
            rows.append(Row("  of them, files that wake the NPU", "", [len(waking)], "0"))
        return rows


def idle() -> list[Row]:
    """At the same time, since they only sleep. Switches of all threads, those of a model's process included."""
    cases: dict[str, dict[str, Any]] = {
        "simulated board, NPU off": {},
        "simulated board, NPU off, a model loaded": {},
        "this machine, following its udev": {"EXO_RKLLM_BOARD_ROOT": "/"},
    }
    with ExitStack() as stack:
        watched: dict[str, list[int]] = {}
        for what, variables in cases.items():
            folder = Path(stack.enter_context(TemporaryDirectory()))
            process, _ = stack.enter_context(daemon(folder, **variables))
            if "loaded" in what:
                client(folder).post("/control/load", model="demo")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            watched[what] = [process.pid, *map(int, children)]
        time.sleep(UNWATCHED)
        before = {what: [used(pid) for pid in pids] for what, pids in watched.items()}
        time.sleep(IDLE)
        after = {what: [used(pid) for pid in pids] for what, pids in watched.items()}
    return [
        Row(f"asleep: {what}", "wake-ups/s", [sum(b.wakeups - a.wakeups for a, b in pairs) / IDLE], "1")
        for what in watched
        if (pairs := list(zip(before[what], after[what], strict=True)))
    ]


def main() -> None:
    rows = [row for profile in BOARDS for row in scrapes(profile)]
    show("board", [*rows, *idle()])
