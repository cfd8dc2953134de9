"""The exo node's metrics, from the one value that `cluster` shows of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from prometheus_client.core import Metric

from exo_rkllm.metrics.families import Page

SERVING = "serving"
PHASES = ("off", "searching", "listening", "checking", "joining", SERVING, "passive", "out", "leaving")
COUNTERS = {
    "sessions": "rkllm_cluster_sessions_total",
    "links": "rkllm_cluster_links_total",
    "events_in": "rkllm_cluster_events_in_total",
    "events_out": "rkllm_cluster_events_out_total",
    "resends": "rkllm_cluster_resends_total",
    "gap_repairs": "rkllm_cluster_gap_repairs_total",
    "refused": "rkllm_cluster_refused_messages_total",
    "garbage": "rkllm_cluster_garbage_total",
    "tasks": "rkllm_cluster_tasks_total",
}


class EchoesNow(Protocol):
    @property
    def count(self) -> int: ...
    @property
    def seconds(self) -> float: ...


class CountersNow(Protocol):
    """cluster's `Counters`; the rows of COUNTERS are read by name."""

    @property
    def echoes(self) -> EchoesNow: ...


class InstanceNow(Protocol):
    @property
    def mine(self) -> bool: ...


class ClusterNow(Protocol):
    """cluster's `ClusterView`, whose phases are words."""

    @property
    def phase(self) -> str: ...
    @property
    def nodes(self) -> Sequence[object]: ...
    @property
    def instances(self) -> Sequence[InstanceNow]: ...
    @property
    def tasks(self) -> int: ...
    @property
    def lag(self) -> int: ...
    @property
    def unechoed(self) -> int: ...
    @property
    def drift(self) -> Sequence[str]: ...
    @property
    def counters(self) -> CountersNow: ...


class ClusterCollector:
    """None where the cluster is switched off: then there is nothing to tell."""

    def __init__(self, view: Callable[[], ClusterNow | None]) -> None:
        self._view = view

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        page, view = Page(), self._view()
        if view is None:
            return ()
        page.add("rkllm_cluster_connected", 1 if view.phase == SERVING else 0)
        for phase in PHASES:
            page.add("rkllm_cluster_phase", 1 if view.phase == phase else 0, phase)
        mine = sum(instance.mine for instance in view.instances)
        page.add("rkllm_cluster_nodes", len(view.nodes))
        page.add("rkllm_cluster_instances", mine, "true")
        page.add("rkllm_cluster_instances", len(view.instances) - mine, "false")
        page.add("rkllm_cluster_tasks_in_hand", view.tasks)
        page.add("rkllm_cluster_lag_events", view.lag)
        page.add("rkllm_cluster_unechoed_events", view.unechoed)
        page.add("rkllm_cluster_drift", len(view.drift))
        for field, name in COUNTERS.items():
            page.add(name, getattr(view.counters, field))
        page.summary("rkllm_cluster_echo_seconds", view.counters.echoes.count, view.counters.echoes.seconds)
        return page.families()
