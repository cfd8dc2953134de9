"""Our node as a process of its own: `python -m exo_cluster.board FOLDER [...]`; commands on stdin, JSON on stdout."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import resource
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import aiohttp  # noqa: F401  the daemon has it by now, and it takes long

from exo_rkllm.cluster.discovery import search
from exo_rkllm.cluster.node import ClusterNode
from exo_rkllm.cluster.serving import NodeDescription
from exo_rkllm.cluster.session.link import Incoming, TopicMessage
from exo_rkllm.cluster.session.zenoh_link import ZenohLink
from exo_rkllm.config import ClusterSettings
from tests.exo_cluster.desk import MODEL, Desk


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="opi5")
    parser.add_argument("--namespace", default="auto")
    parser.add_argument("--endpoint", action="append", default=[])
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--placement", default="own")
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--start-over", type=float, default=search.START_OVER)
    parser.add_argument("--verbose", action="store_true")
    return parser


class TimedLink(ZenohLink):
    """Notes when a task arrived from zenoh, in its thread, and when the first chunk after it was handed over to it."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[tuple[float, float]] = []
        self._arrived = 0.0
        put = self._inbox.put

        def timed(incoming: Incoming, over: threading.Event) -> None:
            if isinstance(incoming, TopicMessage) and b'"TaskCreated"' in incoming.payload:
                self._arrived = time.monotonic()
            put(incoming, over)

        self._inbox.put = timed  # type: ignore[method-assign]

    def send(self, topic: str, payload: bytes) -> bool:
        sent = super().send(topic, payload)
        if self._arrived and b'"TokenChunk"' in payload:
            self.times.append((self._arrived, time.monotonic()))
            self._arrived = 0.0
        return sent


async def obey(node: ClusterNode, desk: Desk, links: list[TimedLink]) -> None:
    """One command a line: view, join, state MODEL STATE [PROBLEM], desk, cost, own; the end of stdin stops the node."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        words = line.decode().split(maxsplit=3)
        answer: object = "ok"
        match words:
            case ["view"]:
                answer = node.view().plain()
            case ["join"]:
                node.join()
            case ["state", model, "failed", problem]:
                await desk.change(model, "failed", problem=problem)
            case ["state", model, ("cold" | "loading" | "warming" | "ready") as state]:
                await desk.change(model, state)
            case ["desk"]:
                answer = {"running": desk.running, "stopped": desk.stopped, "loaded": desk.loaded}
            case ["own"]:  # milliseconds of ours before the first chunk of each answer, without the engine's
                answers = zip(links[-1].times, desk.times, strict=True)
                answer = [(sent - came - (first - asked)) * 1000 for (came, sent), (asked, first) in answers]
            case ["cost"]:
                usage = resource.getrusage(resource.RUSAGE_SELF)
                answer = {"cpu": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss, "at": time.monotonic()}
        print(json.dumps(answer), flush=True)


async def main() -> None:
    args = arguments().parse_args()
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.INFO, format="%(asctime)s %(message)s")
    search.START_OVER = args.start_over
    models = [replace(MODEL, id=name) for name in args.model] or [MODEL]
    desk = Desk(models, args.rate)
    settings = ClusterSettings(
        namespace=args.namespace, endpoints=tuple(args.endpoint), placement=args.placement, name=args.name
    )
    facts = NodeDescription(args.name, "Orange Pi 5 Plus", "RK3588", "Linux", "6.1")
    links: list[TimedLink] = []

    def link() -> ZenohLink:
        links.append(TimedLink())
        return links[-1]

    node = ClusterNode(settings, facts, desk, args.folder, models_folder=Path("/"), zenoh_link=link)
    await node.start()
    print(json.dumps("started"), flush=True)
    await obey(node, desk, links)
    await node.stop()


if __name__ == "__main__":
    asyncio.run(main())
