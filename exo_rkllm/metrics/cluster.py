"""The exo node's metrics, from the ClusterView that `exo-rkllm cluster` shows, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import Metric

from exo_rkllm.cluster.session.view import ClusterView, Phase
from exo_rkllm.metrics.scrape import Scrape

# Fields of ClusterCounters.
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


class ClusterCollector:
    """`view` gives None while the cluster is switched off: then there are no samples."""

    def __init__(self, view: Callable[[], ClusterView | None]) -> None:
        self._view = view

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        scrape, view = Scrape(), self._view()
        if view is None:
            return ()
        scrape.add("rkllm_cluster_connected", 1 if view.phase is Phase.SERVING else 0)
        scrape.add("rkllm_cluster_unconfirmed", 1 if view.announcement is not None else 0)
        for phase in Phase:
            scrape.add("rkllm_cluster_phase", 1 if view.phase is phase else 0, phase.value)
        mine = sum(instance.mine for instance in view.instances)
        scrape.add("rkllm_cluster_nodes", len(view.nodes))
        scrape.add("rkllm_cluster_instances", mine, "true")
        scrape.add("rkllm_cluster_instances", len(view.instances) - mine, "false")
        scrape.add("rkllm_cluster_tasks_in_hand", view.tasks)
        scrape.add("rkllm_cluster_lag_events", view.lag)
        scrape.add("rkllm_cluster_unechoed_events", view.unechoed)
        scrape.add("rkllm_cluster_unjoined", len(view.other_clusters))
        scrape.add("rkllm_cluster_drift", len(view.drift))
        for field, name in COUNTERS.items():
            scrape.add(name, getattr(view.counters, field))
        scrape.add_summary("rkllm_cluster_echo_seconds", view.counters.echoes.count, view.counters.echoes.seconds)
        return scrape.families()
