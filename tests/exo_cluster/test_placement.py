"""Where exo places its own models, before and after a board of ours has joined."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.cluster.serving import BoardGauges, NodeDescription
from exo_rkllm.cluster.session.local_node import LocalNode, multiaddr
from exo_rkllm.cluster.session.publishing import MembershipSources, Publisher
from exo_rkllm.cluster.wire import decoding
from exo_rkllm.cluster.wire.events import SessionId
from exo_rkllm.cluster.wire.revisions import supported
from exo_rkllm.cluster.worker import offers
from exo_rkllm.config.table import Placement
from tests.exo_cluster import real
from tests.exo_cluster.desk import MODEL
from tests.exo_cluster.standin.placement import NoPlacement, place
from tests.exo_cluster.standin.state import State

GIB = 1 << 30
ME = "c0ffee9"
ADDRESS = "10.77.0.{}"
FIGURES = Path(__file__).parent / "transcripts/placements.txt"
BOARD = BoardGauges(memory_total=16 * GIB, npu_load=0.63, celsius=58.2, watts=6.44)


def said(log: Sequence[Any], placement: Placement = "own", gauges: BoardGauges | None = BOARD) -> list[Any]:
    """What a board tells of itself when it joins the cluster that has this log, as it goes out on the wire."""
    numbers = itertools.count()
    sources = MembershipSources(
        new_id=lambda: f"00000000-0000-4000-8000-{next(numbers):012x}",
        time_of_day=lambda: "2026-11-30 12:00:00+00:00",
        gauges=lambda: gauges,
    )
    publisher = Publisher(ME, supported()[0], sources)
    publisher.start_session(SessionId("a", 0))
    publisher.has_link = True
    node = LocalNode(ME, NodeDescription("opi5"), publisher, sources, placement=placement)
    for event in log:
        (kind,) = event
        node.apply(decoding.event(kind, event[kind]))
    node.introduce(0.0)
    publisher.flush(0.0)
    return [json.loads(effect.payload)["event"] for effect in publisher.take()]  # type: ignore[union-attr]


@dataclass
class Cluster:
    """exo nodes as they tell of themselves and of whom they reach."""

    state: State = field(default_factory=State)
    events: list[Any] = field(default_factory=list)

    def tell(self, event: Any) -> None:
        self.events.append(event)
        self.state.apply(self.state.applied + 1, event)

    def gathered(self, node: str, info: Any) -> None:
        self.tell({"NodeGatheredInfo": {"node_id": node, "when": "2026-11-30 12:00:00+00:00", "info": info}})

    def edge(self, source: str, sink: str, edge: Any = None) -> None:
        edge = edge or {"sink_multiaddr": multiaddr(ADDRESS.format(sink[-1]))}
        self.tell({"TopologyEdgeCreated": {"conn": {"source": source, "sink": sink, "edge": edge}}})

    def node(self, name: str, free: int, backends: list[str]) -> None:
        self.gathered(name, {"NodeBackends": {"backends": backends}})
        address = {"name": "eth0", "ip_address": ADDRESS.format(name[-1]), "interface_type": "ethernet"}
        self.gathered(name, {"NodeNetworkInterfaces": {"ifaces": [address]}})
        memory = {"ram_total": free * 2, "ram_available": free, "swap_total": 0, "swap_available": 0}
        self.gathered(name, {key: {"in_bytes": size} for key, size in memory.items()})

    def downloaded(self, node: str, card: Any) -> None:
        layers = {"start_layer": 0, "end_layer": card["n_layers"], "n_layers": card["n_layers"]}
        shard = {"PipelineShardMetadata": {"model_card": card, "device_rank": 0, "world_size": 1, **layers}}
        fields = {"node_id": node, "shard_metadata": shard, "total": card["storage_size"]}
        self.tell({"NodeDownloadProgress": {"download_progress": {"DownloadCompleted": fields}}})

    def join(self, placement: Placement = "own", gauges: BoardGauges | None = BOARD) -> None:
        """Our board: what it says."""
        for event in said(self.events, placement, gauges):
            self.tell(event)
        whole = offers.card(MODEL)
        self.tell({"NodeDownloadProgress": {"download_progress": offers.download_completed(ME, MODEL, whole)}})

    def placed(self, card: Any, **wanted: Any) -> Any:
        try:
            return place(self.state, card, **wanted)
        except NoPlacement as reason:
            return str(reason)


def links(shape: str, names: list[str], chance: random.Random) -> Iterator[tuple[str, str]]:
    """Who reaches whom."""
    pairs = list(itertools.permutations(names, 2))
    beside = list(zip(names, names[1:] + names[:1], strict=True))
    match shape:
        case "all":
            yield from pairs
        case "ring":
            yield from (pair for one, other in beside if one != other for pair in ((one, other), (other, one)))
        case "one-way ring":
            yield from (pair for pair in beside if pair[0] != pair[1])
        case "star":
            yield from (pair for pair in pairs if names[0] in pair)
        case "some":
            yield from (pair for pair in pairs if pair[0] < pair[1] and chance.random() < 0.6)
            yield from (pair for pair in pairs if pair[0] > pair[1] and chance.random() < 0.6)
        case "two islands":
            yield from (pair for pair in pairs if (pair[0] in names[:2]) == (pair[1] in names[:2]))


SHAPES = ("all", "ring", "one-way ring", "star", "some", "two islands")


def generated(seed: int) -> tuple[Cluster, list[Any]]:
    """A cluster of Macs, GPUs and PCs, and models for it, of which some fit only on several nodes or nowhere."""
    chance = random.Random(seed)
    cluster = Cluster()
    names = [f"exo{number}" for number in range(chance.randint(1, 5))]
    for name in names:
        more: list[str] = chance.choice([[], ["MlxMetal"], ["MlxMetal"], ["MlxCuda", "Vllm"]])
        cluster.node(name, chance.randint(1, 64 * 1024) << 20, ["MlxCpu", *more])
        if "MlxMetal" in more and chance.random() < 0.8:
            cluster.gathered(name, {"RdmaCtlStatus": {"enabled": True}})
    thunderbolt = chance.random() < 0.5
    for source, sink in links(SHAPES[seed % len(SHAPES)], names, chance):
        cluster.edge(source, sink)
        if thunderbolt:
            cluster.edge(source, sink, {"source_rdma_iface": f"rdma_en{sink[-1]}", "sink_rdma_iface": "rdma_en2"})
    cards = []
    for number in range(12):
        card = {
            "model_id": f"mlx-community/m{number}",
            "storage_size": {"in_bytes": int(2 ** chance.uniform(20, 38))},
            "n_layers": 32,
            "hidden_size": chance.choice([1024, 3072, 5120]),
            "num_key_value_heads": chance.choice([None, 2, 8]),
            "supports_tensor": chance.random() < 0.5,
            "tasks": ["TextGeneration"],
            "backends": chance.choice([["MlxMetal", "MlxCuda", "MlxCpu"], ["MlxMetal"], ["MlxCuda"], []]),
        }
        cards.append(card)
        if chance.random() < 0.3:
            cluster.downloaded(chance.choice(names), card)
    return cluster, cards


WAYS = [
    {"min_nodes": nodes, "sharding": sharding, "meta": meta}
    for nodes in (1, 2)
    for sharding in ("Pipeline", "Tensor")
    for meta in ("MlxRing", "MlxJaccl")
]
# Clusters of each shape in turn.
SEEDS = range(60 if "TESTS_LONG" in os.environ else 12)


@pytest.mark.parametrize("seed", SEEDS)
def test_models_of_exo_are_placed_as_before_once_a_board_has_joined(seed: int) -> None:
    cluster, cards = generated(seed)
    before = [cluster.placed(card, **way) for card in cards for way in WAYS]
    cluster.join()
    assert ME in cluster.state.topology
    assert any(source == ME for source, _ in cluster.state.edges), "the dashboard draws a line"
    assert [cluster.placed(card, **way) for card in cards for way in WAYS] == before


def test_generated_clusters_place_models_on_one_node_on_several_and_nowhere() -> None:
    """Or else the test above compares refusals with refusals."""
    sizes = []
    for seed in SEEDS:
        cluster, cards = generated(seed)
        sizes += [cluster.placed(card, **way) for card in cards for way in WAYS]
    rings = [len(one) for one in sizes if isinstance(one, tuple)]
    assert rings.count(1) > 50
    assert len(rings) - rings.count(1) > 50
    assert len(sizes) - len(rings) > 50


def test_edge_to_a_board_from_nodes_of_exo_would_change_the_placement() -> None:
    """exo prefers rings with a node that reaches one other at most: why the board answers no probe of theirs."""
    cluster = Cluster()
    for name, free in (("exo1", 30 * GIB), ("exo2", 20 * GIB), ("exo3", 10 * GIB)):
        cluster.node(name, free, ["MlxCpu"])
    for source, sink in (("exo1", "exo2"), ("exo1", "exo3"), ("exo3", "exo1"), ("exo2", "exo1")):
        cluster.edge(source, sink)
    card = {**generated(0)[1][0], "backends": ["MlxCpu"], "storage_size": {"in_bytes": GIB}}
    assert cluster.placed(card) == ("exo2",)
    cluster.join()
    assert cluster.placed(card) == ("exo2",)
    for name in ("exo1", "exo2", "exo3"):
        cluster.edge(name, ME)
    assert cluster.placed(card) == ("exo1",)


def digest(rings: list[Any]) -> str:
    """Of where each model went; the order within a ring is exo's own affair."""
    return hashlib.sha256(json.dumps([one and sorted(one) for one in rings]).encode()).hexdigest()[:16]


def test_stand_in_places_the_generated_models_as_exo_did() -> None:
    """FIGURES are exo's own answers for these clusters, by digest."""
    ours = []
    for seed in SEEDS:
        cluster, cards = generated(seed)
        found = [cluster.placed(card, **way) for card in cards for way in WAYS]
        ours.append(digest([one if isinstance(one, tuple) else None for one in found]))
    assert ours == FIGURES.read_text().split()[: len(SEEDS)]


@pytest.mark.skipif(not real.PYTHON, reason="EXO_PYTHON names no Python with exo")
def test_exo_itself_places_its_models_as_before_once_a_board_has_joined(tmp_path: Path) -> None:
    """In the order of its rings, too. EXO_RKLLM_FIGURES=1 writes its answers for the test above."""
    asked = []
    for seed in SEEDS:
        cluster, cards = generated(seed)
        before = list(cluster.events)
        cluster.join()
        asked += [{"events": events, "cards": cards, "ways": WAYS} for events in (before, cluster.events)]
    environment = {**os.environ, "PYTHONPATH": "", "EXO_HOME": str(tmp_path), "EXO_DASHBOARD_DIR": str(tmp_path)}
    (tmp_path / "index.html").write_text("")
    command = [real.PYTHON, str(Path(__file__).with_name("placing.py"))]
    done = subprocess.run(command, input=json.dumps(asked), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert answers[0::2] == answers[1::2]
    if "EXO_RKLLM_FIGURES" in os.environ:
        FIGURES.write_text("".join(f"{digest(one)}\n" for one in answers[0::2]))


def test_free_memory_of_a_board_would_break_the_placement() -> None:
    """The rule that the test above would not see if the stand-in were kinder than exo (reference 4, its matrix)."""
    card = {
        "model_id": "m",
        "storage_size": {"in_bytes": 8 * GIB},
        "n_layers": 8,
        "hidden_size": 8,
        "num_key_value_heads": None,
        "supports_tensor": False,
        "backends": ["MlxCpu"],
    }
    cluster = Cluster()
    for name in ("exo1", "exo2"):
        cluster.node(name, 6 * GIB, ["MlxCpu"])
    cluster.edge("exo1", "exo2")
    cluster.edge("exo2", "exo1")
    assert cluster.placed(card) == ("exo1", "exo2")
    cluster.join()
    assert cluster.placed(card) == ("exo1", "exo2")
    cluster.node(ME, 12 * GIB, [])
    assert "No cycle where every node supports a backend" in cluster.placed(card)


def test_board_shows_load_temperature_power_and_memory_as_exo_reads_them() -> None:
    cluster = Cluster()
    cluster.join()
    profile = cluster.state.node_system[ME]
    assert (profile["gpu_usage"], profile["temp"], profile["sys_power"]) == (0.63, 58.0, 6.4)
    memory = cluster.state.node_memory[ME]
    assert (memory["ram_total"]["in_bytes"], memory["ram_available"]["in_bytes"]) == (16 * GIB, 0)
    assert "nodeSystem" in cluster.state.document()


def test_board_that_is_launched_from_the_dashboard_has_room_for_its_own_models_only() -> None:
    for gauges in (BOARD, None):
        cluster = Cluster()
        cluster.join("dashboard", gauges)
        assert cluster.state.node_memory[ME]["ram_available"] == {"in_bytes": offers.TOKEN_SIZE}


def test_board_without_sensors_says_nothing_of_them() -> None:
    cluster = Cluster()
    cluster.join(gauges=None)
    assert ME not in cluster.state.node_system
    assert ME not in cluster.state.node_memory
