"""A daemon's worth of things to measure, without the daemon: boards from the simulator, requests as they would come."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry

from exo_rkllm.backends.base import Timings, Usage
from exo_rkllm.backends.observer import AnswerReport, LoadReport, RestartReport, TokenGaps
from exo_rkllm.board.counters import read_load
from exo_rkllm.board.detect import detect
from exo_rkllm.board.sampler import NpuLoad, integrate
from exo_rkllm.board.sources import find
from exo_rkllm.metrics.board import BoardCollector
from exo_rkllm.metrics.cluster import ClusterCollector
from exo_rkllm.metrics.exposition import registry
from exo_rkllm.metrics.serving import ServingCollector, ServingMetrics


@dataclass
class Model:
    name: str
    state: str = "ready"
    memory: int = 2_000_000_000
    running: tuple[object, ...] = ()
    waiting: tuple[object, ...] = ()


@dataclass
class Status:
    models: tuple[Model, ...] = (Model("qwen3-0.6b", running=("a",), waiting=("b", "c")), Model("gemma-2b", "cold"))
    hindrance: str = ""


@dataclass
class Echoes:
    count: int = 0
    seconds: float = 0.0


@dataclass
class Counters:
    sessions: int = 1
    links: int = 1
    events_in: int = 0
    events_out: int = 0
    resends: int = 0
    gap_repairs: int = 0
    garbage: int = 0
    refused: int = 0
    tasks: int = 0
    echoes: Echoes = field(default_factory=Echoes)


@dataclass
class Instance:
    mine: bool


@dataclass
class Cluster:
    phase: str = "serving"
    nodes: tuple[str, ...] = ("here", "mac")
    instances: tuple[Instance, ...] = (Instance(True), Instance(False))
    tasks: int = 1
    lag: int = 0
    unechoed: int = 3
    drift: tuple[str, ...] = ()
    counters: Counters = field(default_factory=Counters)


class Daemon:
    """What a scrape sees of one daemon; `work` lets another second pass."""

    def __init__(self, root: Path) -> None:
        self.board = detect(root)
        self.sources = find(root, self.board)
        self.serving = ServingMetrics()
        self.status = Status()
        self.cluster: Cluster | None = Cluster()
        self.runtime: tuple[str, str] | None = ("1.2.3", "v1_2_1")
        self.touched = 0
        self.busy = NpuLoad()
        self.now = 0.0

    def registry(self) -> CollectorRegistry:
        return registry(
            [
                BoardCollector(lambda: self.board, lambda: self.sources, lambda: self.busy, self._touch),
                ServingCollector(self.serving, lambda: self.status, lambda: self.runtime),
                ClusterCollector(lambda: self.cluster),
            ]
        )

    def _touch(self) -> None:
        self.touched += 1

    def work(self, reason: str = "stop", gap: float = 0.06) -> None:
        self.now += 1
        self.busy = integrate(self.busy, read_load(self.sources), self.now)
        self.serving.loaded(LoadReport("qwen3-0.6b", 3.0))
        self.serving.answered(answer("qwen3-0.6b", reason, gap))
        if self.cluster is not None:
            counters = self.cluster.counters
            counters.events_in += 12
            counters.events_out += 5
            counters.tasks += 1
            counters.echoes = Echoes(counters.echoes.count + 5, counters.echoes.seconds + 0.02)

    def suffer(self) -> None:
        """What alerts are for."""
        self.serving.restarted(RestartReport("qwen3-0.6b", "crash"))
        self.serving.loaded(LoadReport("gemma-2b", 0.5, "out_of_memory"))
        self.serving.answered(AnswerReport("qwen3-0.6b", "runner_lost", 12.0, timings=Timings(queued=40.0)))
        if self.cluster is not None:
            self.cluster.counters.resends += 2
            self.cluster.counters.gap_repairs += 1
            self.cluster.counters.refused += 1


def answer(model: str, reason: str = "stop", gap: float = 0.06, tokens: int = 40) -> AnswerReport:
    gaps = TokenGaps()
    for moment in itertools.islice(itertools.count(100.0, gap), tokens):
        gaps.tick(moment)
    return AnswerReport(
        model,
        reason,
        seconds=0.4 + gap * tokens,
        usage=Usage(128, 100, tokens),
        timings=Timings(queued=0.1, prefill=0.25, decode=gap * tokens),
        first_token=0.4,
        gaps=gaps,
    )
