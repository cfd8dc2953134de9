"""Where exo places its own models, before and after a board of ours has joined."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from exo_rkllm.cluster.serving import BoardGauges, NodeDescription
from exo_rkllm.cluster.session.local_node import LocalNode
from exo_rkllm.cluster.session.publishing import MembershipSources, Publisher
from exo_rkllm.cluster.wire.events import SessionId
from exo_rkllm.cluster.wire.revisions import supported
from exo_rkllm.cluster.worker import offers
from exo_rkllm.config.table import Placement
from tests.exo_cluster.desk import MODEL
from tests.exo_cluster.standin.placement import NoPlacement, place
from tests.exo_cluster.standin.state import State

GIB = 1 << 30
ME = "c0ffee"
BOARD = BoardGauges(memory_total=16 * GIB, npu_load=0.63, celsius=58.2, watts=6.44)


def infos(placement: Placement = "own", gauges: BoardGauges | None = BOARD) -> list[Any]:
    """What a board tells of itself when it joins, as it goes out on the wire."""
    numbers = itertools.count()
    sources = MembershipSources(
        new_id=lambda: f"00000000-0000-4000-8000-{next(numbers):012x}",
        time_of_day=lambda: "2026-11-30 12:00:00+00:00",
        gauges=lambda: gauges,
    )
    publisher = Publisher(ME, supported()[0], sources)
    publisher.start_session(SessionId("a", 0))
    publisher.has_link = True
    LocalNode(ME, NodeDescription("opi5"), publisher, sources, placement=placement).introduce(0.0)
    publisher.flush(0.0)
    return [json.loads(effect.payload)["event"] for effect in publisher.take()]  # type: ignore[union-attr]


@dataclass
class Cluster:
    """exo nodes as they tell of themselves, each connected to the others or to some of them."""

    state: State = field(default_factory=State)

    def tell(self, event: Any) -> None:
        self.state.apply(self.state.applied + 1, event)

    def gathered(self, node: str, info: Any) -> None:
        self.tell({"NodeGatheredInfo": {"node_id": node, "when": "2026-11-30 12:00:00+00:00", "info": info}})

    def edge(self, source: str, sink: str) -> None:
        self.tell({"TopologyEdgeCreated": {"conn": {"source": source, "sink": sink, "edge": {}}}})

    def node(self, name: str, free: int, backends: list[str]) -> None:
        self.gathered(name, {"NodeBackends": {"backends": backends}})
        memory = {"ram_total": free * 2, "ram_available": free, "swap_total": 0, "swap_available": 0}
        self.gathered(name, {key: {"in_bytes": size} for key, size in memory.items()})

    def downloaded(self, node: str, card: Any) -> None:
        shard = {"PipelineShardMetadata": {"model_card": card}}
        progress = {"DownloadCompleted": {"node_id": node, "shard_metadata": shard}}
        self.tell({"NodeDownloadProgress": {"download_progress": progress}})

    def join(self, events: list[Any]) -> None:
        """Our board: what it says, and the edges to it that exo's nodes make of their own probes."""
        others = list(self.state.topology)
        for event in events:
            self.tell(event)
        whole = offers.card(MODEL)
        self.tell({"NodeDownloadProgress": {"download_progress": offers.download_completed(ME, MODEL, whole)}})
        for other in others:
            self.edge(other, ME)

    def placed(self, card: Any, **wanted: Any) -> Any:
        try:
            return place(self.state, card, **wanted)
        except NoPlacement as reason:
            return str(reason)


def generated(seed: int, reach: float = 1.0) -> tuple[Cluster, list[Any]]:
    """A cluster of Macs, GPUs and PCs, and models for it, of which some fit only on several nodes or nowhere.

    `reach` is how likely two of its nodes can connect to each other; all of one network can.
    """
    chance = random.Random(seed)
    cluster = Cluster()
    names = [f"exo{number}" for number in range(chance.randint(1, 5))]
    for name in names:
        more: list[str] = chance.choice([[], ["MlxMetal"], ["MlxCuda", "Vllm"]])
        cluster.node(name, chance.randint(1, 64 * 1024) << 20, ["MlxCpu", *more])
    for first, second in itertools.combinations(names, 2):
        if chance.random() < reach:
            cluster.edge(first, second)
            cluster.edge(second, first)
    cards = []
    for number in range(12):
        card = {
            "model_id": f"mlx-community/m{number}",
            "storage_size": {"in_bytes": int(2 ** chance.uniform(20, 38))},
            "n_layers": 32,
            "hidden_size": chance.choice([1024, 3072, 5120]),
            "num_key_value_heads": chance.choice([None, 2, 8]),
            "supports_tensor": chance.random() < 0.5,
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


@pytest.mark.parametrize("seed", range(50))
def test_models_of_exo_are_placed_as_before_once_a_board_has_joined(seed: int) -> None:
    cluster, cards = generated(seed)
    before = [cluster.placed(card, **way) for card in cards for way in WAYS]
    cluster.join(infos())
    assert ME in cluster.state.topology
    assert [cluster.placed(card, **way) for card in cards for way in WAYS] == before


@pytest.mark.parametrize("seed", range(50))
def test_board_changes_no_verdict_where_nodes_of_exo_do_not_all_reach_each_other(seed: int) -> None:
    """exo prefers rings with a node that has one neighbour at most, and a board that answers its probes is one more:
    among rings of one size it may then choose another, and nothing else."""
    cluster, cards = generated(seed, 0.6)

    def verdicts() -> list[Any]:
        found = [cluster.placed(card, **way) for card in cards for way in WAYS]
        assert not [one for one in found if ME in one]
        return [len(one) if isinstance(one, tuple) else one for one in found]

    before = verdicts()
    cluster.join(infos())
    assert verdicts() == before


def test_generated_clusters_place_models_on_one_node_on_several_and_nowhere() -> None:
    """Or else the test above compares refusals with refusals."""
    sizes = []
    for seed in range(50):
        cluster, cards = generated(seed)
        sizes += [cluster.placed(card, **way) for card in cards for way in WAYS]
    rings = [len(one) for one in sizes if isinstance(one, tuple)]
    assert rings.count(1) > 200
    assert len(rings) - rings.count(1) > 200
    assert len(sizes) - len(rings) > 200


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
    cluster.join(infos())
    assert cluster.placed(card) == ("exo1", "exo2")
    cluster.node(ME, 12 * GIB, [])
    assert "No cycle where every node supports a backend" in cluster.placed(card)


def test_board_shows_load_temperature_power_and_memory_as_exo_reads_them() -> None:
    cluster = Cluster()
    cluster.join(infos())
    profile = cluster.state.node_system[ME]
    assert (profile["gpu_usage"], profile["temp"], profile["sys_power"]) == (0.63, 58.0, 6.4)
    memory = cluster.state.node_memory[ME]
    assert (memory["ram_total"]["in_bytes"], memory["ram_available"]["in_bytes"]) == (16 * GIB, 0)
    assert "nodeSystem" in cluster.state.document()


def test_board_that_is_launched_from_the_dashboard_has_room_for_its_own_models_only() -> None:
    for gauges in (BOARD, None):
        cluster = Cluster()
        cluster.join(infos("dashboard", gauges))
        assert cluster.state.node_memory[ME]["ram_available"] == {"in_bytes": offers.TOKEN_SIZE}


def test_board_without_sensors_says_nothing_of_them() -> None:
    cluster = Cluster()
    cluster.join(infos(gauges=None))
    assert ME not in cluster.state.node_system
    assert ME not in cluster.state.node_memory
