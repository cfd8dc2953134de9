"""A daemon's worth of things to measure, without the daemon: boards from the simulator, requests as they would come."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from exo_rkllm.backends.base import Timings, Usage
from exo_rkllm.backends.observer import AnswerReport, LoadReport, RestartReport, TokenGaps
from exo_rkllm.board.counters import read_load
from exo_rkllm.board.detect import detect
from exo_rkllm.board.kernel_log import NpuLog
from exo_rkllm.board.neighbours import Neighbours
from exo_rkllm.board.sampler import NpuLoad, integrate
from exo_rkllm.board.sources import find_sources
from exo_rkllm.cluster.session import view
from exo_rkllm.dispatch.state import Phase
from exo_rkllm.dispatch.status import DispatchStatus, ModelStatus, RequestStatus
from exo_rkllm.metrics.board import BoardCollector
from exo_rkllm.metrics.cluster import ClusterCollector
from exo_rkllm.metrics.scrape import registry
from exo_rkllm.metrics.serving import ServingCollector, ServingMetrics

QWEN, GEMMA = "qwen3-0.6b", "gemma-2b"


def model_status(
    name: str, state: Phase = "ready", running: int = 0, waiting: int = 0, runtime: str = "1.2.3"
) -> ModelStatus:
    requests = tuple(RequestStatus(str(number), "client", 0.0) for number in range(running + waiting))
    return ModelStatus(
        name,
        "rkllm",
        state,
        since=0.0,
        running=requests[:running],
        waiting=requests[running:],
        memory=2_000_000_000,
        runtime=runtime if state == "ready" else "",
    )


def cluster_view(phase: view.Phase = view.Phase.SERVING, **fields: Any) -> view.ClusterView:
    instances = tuple(view.InstanceView(str(mine), QWEN, "node", "ready", 1, mine) for mine in (True, False))
    nodes = (view.NodeView("here", me=True), view.NodeView("mac"))
    return replace(view.ClusterView(phase, nodes=nodes, instances=instances, tasks=1, unechoed=3), **fields)


class Daemon:
    """What a scrape sees of one daemon; `work` lets another second pass."""

    def __init__(self, root: Path) -> None:
        self.board = detect(root)
        self.sources = find_sources(root, self.board)
        self.serving = ServingMetrics()
        self.status = DispatchStatus((model_status(QWEN, running=1, waiting=2), model_status(GEMMA, "cold")))
        self.cluster: view.ClusterView | None = cluster_view()
        self.runtime: tuple[str, str] | None = ("1.2.3", "v1_2_1")
        self.kernel_log: NpuLog | None = NpuLog({"hung_job": 2})
        self.touched = 0
        self.neighbours = Neighbours({"frigate.detector": 2}, complete=True)
        self.busy = NpuLoad()
        self.now = 0.0

    def registry(self) -> CollectorRegistry:
        return registry(
            [
                BoardCollector(
                    lambda: self.board,
                    lambda: self.sources,
                    lambda: self.busy,
                    self._touch,
                    lambda: self.kernel_log,
                    lambda: self.neighbours,
                ),
                ServingCollector(self.serving, lambda: self.status, lambda: self.runtime),
                ClusterCollector(lambda: self.cluster),
            ]
        )

    def _touch(self) -> None:
        self.touched += 1

    def work(self, reason: str = "stop", gap: float = 0.06) -> None:
        self.now += 1
        self.busy = integrate(self.busy, read_load(self.sources), self.now)
        self.serving.loaded(LoadReport(QWEN, 3.0))
        self.serving.answered(answer(QWEN, reason, gap))
        if self.cluster is not None:
            self._count(events_in=12, events_out=5, tasks=1)
            echoes = self.cluster.counters.echoes + view.Echoes(5, 0.02, 0.01)
            self.cluster = replace(self.cluster, counters=replace(self.cluster.counters, echoes=echoes))

    def suffer(self) -> None:
        """What alerts are for."""
        self.serving.restarted(RestartReport(QWEN, "crash"))
        self.serving.loaded(LoadReport(GEMMA, 0.5, "out_of_memory"))
        self.serving.answered(AnswerReport(QWEN, "runner_lost", 12.0, timings=Timings(queued=40.0)))
        self._count(resends=2, gap_repairs=1, refused=1)

    def _count(self, **more: int) -> None:
        if self.cluster is not None:
            counters = self.cluster.counters
            counted = {name: getattr(counters, name) + number for name, number in more.items()}
            self.cluster = replace(self.cluster, counters=replace(counters, **counted))


def answer(model: str, reason: str = "stop", gap: float = 0.06, tokens: int = 40) -> AnswerReport:
    gaps = TokenGaps()
    for moment in itertools.islice(itertools.count(100.0, gap), tokens):
        gaps.tick(moment)
    return AnswerReport(
        model,
        reason,
        seconds=0.4 + gap * tokens,
        usage=Usage(128, 100, tokens, images=2, encoded=1),
        timings=Timings(queued=0.1, prefill=0.25, decode=gap * tokens, encode=0.9),
        first_token=0.4,
        gaps=gaps,
    )
