"""`exo-rkllm cluster`: the board's own view of its cluster, for people and for programs."""

from __future__ import annotations

import json
import subprocess

from exo_rkllm.cli.cluster import report
from exo_rkllm.cluster.session.view import ClusterCounters, ClusterView, InstanceView, NodeView, OfferView, Phase
from tests.daemon.conftest import house  # noqa: F401 - a fixture
from tests.daemon.running import House

VIEW = ClusterView(
    Phase.SERVING,
    node_id="b" * 32,
    name="rock",
    namespace="0.3.71",
    master="a" * 32,
    session_age=61.4,
    nodes=(
        NodeView("a" * 32, "mac", "Mac", "M4", ("10.0.0.2",), master=True),
        NodeView("b" * 32, "rock", "Rock 5B", "RK3588", me=True),
    ),
    instances=(InstanceView("c" * 32, "rkllm/qwen", "rock", "ready", 2, mine=True),),
    tasks=2,
    lag=3,
    drift=("GenerationStats.watts",),
    other_clusters=("0.3.70 at fe80::1",),
    offers=(
        OfferView("rkllm/qwen", "qwen", offered=True),
        OfferView("rkllm/big", "big", offered=False, reason="big needs 9.0 GB of memory."),
    ),
    counters=ClusterCounters(resends=4),
)


def test_cluster_shows_master_nodes_instances_and_counters() -> None:
    text = "\n".join(report(json.loads(json.dumps(VIEW.plain()))))
    assert text.startswith("rock is serving in the cluster 0.3.71.\nmaster: mac, for 61 s")
    for line in (
        "mac   master      Mac      M4      10.0.0.2",
        "cccccccc  rkllm/qwen  rock (ours)  ready   2",
        "NOT OFFERED  REASON",
        "big          big needs 9.0 GB of memory.",
        "events behind 3",
        "resent 4",
        "protocol difference: GenerationStats.watts",
        "other cluster: 0.3.70 at fe80::1",
    ):
        assert line in text


def test_cluster_without_a_session_says_why() -> None:
    view = ClusterView(Phase.SEARCHING, name="rock", sentence="Nobody is heard.", hint="ip -6 a")
    lines = list(report(json.loads(json.dumps(view.plain()))))
    assert lines[:3] == ["rock is searching in the cluster (none yet).", "Nobody is heard.", "  try: ip -6 a"]


def test_cluster_that_is_switched_off_names_the_setting(house: House) -> None:  # noqa: F811
    assert "The daemon is not running" in house.command("cluster").stderr
    house.start()
    for words in ((), ("--watch",), ("join",)):
        told = house.command("cluster", *words)
        assert told.returncode == 1
        assert "joins no exo cluster" in told.stderr
        assert "enabled = true" in told.stderr


def test_cluster_says_that_the_daemon_is_searching(house: House) -> None:  # noqa: F811
    daemon = house.start(EXO_RKLLM_CLUSTER_ENABLED="true", EXO_RKLLM_CLUSTER_INTERFACES="lo")
    view = json.loads(house.command("cluster", "--json").stdout)
    assert view["phase"] in ("searching", "off")
    assert "cluster" in house.command("cluster").stdout
    assert json.loads(house.command("cluster", "join", "--json").stdout)["node_id"] == view["node_id"]
    daemon.stop()


def test_cluster_watch_prints_updates_until_the_daemon_stops(house: House) -> None:  # noqa: F811
    daemon = house.start(EXO_RKLLM_CLUSTER_ENABLED="true", EXO_RKLLM_CLUSTER_INTERFACES="lo")
    with subprocess.Popen(
        [*house.program, "cluster", "--watch", "--json"],
        cwd=house.at,
        env=house.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as watching:
        assert watching.stdout is not None
        seen = [json.loads(watching.stdout.readline()) for _ in range(2)]
        assert {view["name"] for view in seen} == {seen[0]["name"]}
        daemon.stop()
        assert watching.wait(20) == 1
