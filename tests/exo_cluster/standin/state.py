"""What a session holds, and how events change it; plain JSON values in exo's words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

Json = Any
PASSIVE = {"TestEvent", "ChunkGenerated", "TaskAcknowledged", "InputChunkReceived", "TracesCollected", "TracesMerged"}
# Maps keyed by ids, whose keys are no field names.
MAPS = [
    "instances",
    "runners",
    "downloads",
    "tasks",
    "last_seen",
    "node_identities",
    "node_memory",
    "node_disk",
    "node_system",
    "node_network",
    "node_thunderbolt",
    "node_thunderbolt_bridge",
    "node_rdma_ctl",
    "node_backends",
    "instance_links",
    "prefill_server_ports",
    "custom_model_cards",
]


def unwrap(value: Json) -> tuple[str, Json]:
    ((tag, body),) = value.items()
    return tag, body


def camel(value: Json, *, ids: bool = False) -> Json:
    """The spelling of the HTTP API; what is in task parameters, usage and statistics keeps its own."""
    if isinstance(value, list):
        return [camel(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    kept = {"task_params", "usage", "stats", "sink_multiaddr"}
    by_id = {"runner_to_shard", "node_to_runner", "hosts_by_node", *MAPS}
    return {
        key if ids else re.sub(r"_(\w)", lambda found: found[1].upper(), key): (
            entry if key in kept else camel(entry, ids=key in by_id and not ids)
        )
        for key, entry in value.items()
    }


class State:
    def __init__(self) -> None:
        self.maps: dict[str, dict[str, Json]] = {name: {} for name in MAPS}
        self.topology: list[str] = []
        self.edges: dict[tuple[str, str], list[Json]] = {}
        self.applied = -1

    def __getattr__(self, name: str) -> dict[str, Json]:
        try:
            return self.__dict__["maps"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(name) from None

    def document(self) -> Json:
        connections: Json = {}
        for source, sink in self.edges:
            connections.setdefault(source, {})[sink] = [camel(edge) for edge in self.edges[source, sink]]
        return {
            **dict(camel(self.maps).items()),
            "topology": {"nodes": list(self.topology), "connections": connections},
            "lastEventAppliedIdx": self.applied,
            "thunderboltBridgeCycles": [],
        }

    def apply(self, index: int, event: Json) -> None:
        assert index == self.applied + 1, f"expected event {self.applied + 1}, got {index}"
        self.applied = index
        kind, body = unwrap(event)
        if kind not in PASSIVE:
            getattr(self, f"_{kind}", lambda _: None)(body)

    # ── one method an event ──

    def _NodeGatheredInfo(self, body: Json) -> None:  # noqa: N802  named as the event
        node, info = body["node_id"], body["info"]
        if node not in self.topology:
            self.topology.append(node)
        self.last_seen[node] = body["when"]
        if len(info) > 1:
            self.node_memory[node] = info
            return
        kind, facts = unwrap(info)
        if kind in ("MiscData", "StaticNodeInformation"):
            names = {"friendly_name": "friendly_name", "model": "model_id", "chip": "chip_id"}
            blank = dict.fromkeys(("model_id", "chip_id", "friendly_name", "os_version", "os_build_version"), "Unknown")
            known = self.node_identities.setdefault(node, blank)
            known.update({names.get(key, key): value for key, value in facts.items()})
        elif kind == "MacmonMetrics":
            self.node_system[node], self.node_memory[node] = facts["system_profile"], facts["memory"]
        elif kind == "NodeNetworkInterfaces":
            self.node_network[node] = {"interfaces": facts["ifaces"]}
        elif kind == "NodeDiskUsage":
            self.node_disk[node] = facts["disk_usage"]
        elif kind == "NodeBackends":
            self.node_backends[node] = facts["backends"]
        elif kind == "RdmaCtlStatus":
            self.node_rdma_ctl[node] = facts

    def _NodeTimedOut(self, body: Json) -> None:  # noqa: N802
        node = body["node_id"]
        if node in self.topology:
            self.topology.remove(node)
        self.edges = {pair: edges for pair, edges in self.edges.items() if node not in pair}
        for name in ("last_seen", "downloads", "node_memory", "node_disk", "node_system", "node_network"):
            self.maps[name].pop(node, None)

    def _NodeDownloadProgress(self, body: Json) -> None:  # noqa: N802
        _, progress = unwrap(body["download_progress"])

        def model(entry: Json) -> str:
            return str(unwrap(unwrap(entry)[1]["shard_metadata"])[1]["model_card"]["model_id"])

        others = [
            entry
            for entry in self.downloads.get(progress["node_id"], [])
            if model(entry) != model(body["download_progress"])
        ]
        self.downloads[progress["node_id"]] = [*others, body["download_progress"]]

    def _TaskCreated(self, body: Json) -> None:  # noqa: N802
        self.tasks[body["task_id"]] = body["task"]

    def _TaskDeleted(self, body: Json) -> None:  # noqa: N802
        self.tasks.pop(body["task_id"], None)

    def _TaskStatusUpdated(self, body: Json) -> None:  # noqa: N802
        task = self.tasks.get(body["task_id"])
        if task is not None:
            kind, fields = unwrap(task)
            self.tasks[body["task_id"]] = {kind: {**fields, "task_status": body["task_status"]}}

    def _InstanceCreated(self, body: Json) -> None:  # noqa: N802
        self.instances[unwrap(body["instance"])[1]["instance_id"]] = body["instance"]

    def _InstanceDeleted(self, body: Json) -> None:  # noqa: N802
        self.instances.pop(body["instance_id"], None)

    def _RunnerStatusUpdated(self, body: Json) -> None:  # noqa: N802
        if "RunnerShutdown" in body["runner_status"]:
            self.runners.pop(body["runner_id"], None)
        else:
            self.runners[body["runner_id"]] = body["runner_status"]

    def _CustomModelCardAdded(self, body: Json) -> None:  # noqa: N802
        self.custom_model_cards[body["model_card"]["model_id"]] = body["model_card"]

    def _CustomModelCardDeleted(self, body: Json) -> None:  # noqa: N802
        self.custom_model_cards.pop(body["model_id"], None)

    def _TopologyEdgeCreated(self, body: Json) -> None:  # noqa: N802
        source, sink, edge = body["conn"]["source"], body["conn"]["sink"], body["conn"]["edge"]
        for node in (source, sink):
            if node not in self.topology:
                self.topology.append(node)
        edges = self.edges.setdefault((source, sink), [])
        if edge not in edges:
            edges.append(edge)

    # ── what others ask of it ──

    def neighbours(self, node: str) -> set[str]:
        return {sink for source, sink in self.edges if source == node}

    def is_rdma(self, ring: Sequence[str]) -> bool:
        """Whether exo counts it as one for MlxJaccl: RDMA wherever its nodes reach each other, enabled on all."""
        within = [edges for (source, sink), edges in self.edges.items() if source in ring and sink in ring]
        enabled = all(self.node_rdma_ctl.get(node, {}).get("enabled") for node in ring)
        return enabled and all(any("source_rdma_iface" in edge for edge in edges) for edges in within)

    def in_flight(self, instance: str) -> int:
        bodies = (unwrap(task)[1] for task in self.tasks.values())
        return sum(body["instance_id"] == instance and body["task_status"] in ("Pending", "Running") for body in bodies)

    def instances_of(self, model: str) -> list[str]:
        """Fewest tasks first, then oldest first, as the master balances."""
        found = [
            key for key, value in self.instances.items() if unwrap(value)[1]["shard_assignments"]["model_id"] == model
        ]
        return sorted(found, key=self.in_flight)
