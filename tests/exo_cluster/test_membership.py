"""Membership from the first event to the last word: what is published, when, and what keeps it silent."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from exo_rkllm.backends.base import Finish, Piece
from exo_rkllm.cluster.effects import (
    BeginTaskEffect,
    CancelTaskEffect,
    ClusterEffect,
    DeclareTokenEffect,
    LogEffect,
    QueryNodesEffect,
    SendEffect,
    StayOutEffect,
)
from exo_rkllm.cluster.serving import BoardGauges, NodeDescription
from exo_rkllm.cluster.session import membership as m
from exo_rkllm.cluster.session.crash_watch import RECOVERY
from exo_rkllm.cluster.session.local_node import TWIN
from exo_rkllm.cluster.session.membership import Membership
from exo_rkllm.cluster.session.node_query import NodeAnswer
from exo_rkllm.cluster.session.publishing import MembershipSources
from exo_rkllm.cluster.session.view import Phase
from exo_rkllm.cluster.wire.revisions import supported
from tests.exo_cluster.captured import openapi
from tests.exo_cluster.desk import MODEL
from tests.exo_cluster.standin.state import State as Document

ME, MASTER = "c0ffee", "aa11"
SESSION = {"master_node_id": MASTER, "election_clock": 0}
ETH = ({"name": "eth0", "ip_address": "10.0.0.2", "interface_type": "ethernet"},)


class Wire:
    """The cluster's side, by hand: it hears what is sent and says what it likes."""

    def __init__(self, *, gauges: Callable[[], BoardGauges | None] = lambda: None, **options: Any) -> None:
        sources = MembershipSources(disk=lambda: (100, 50), gauges=gauges)
        self.member = Membership(ME, supported()[0], NodeDescription("opi5"), sources=sources, **options)
        self.now = 100.0
        self.log: list[Any] = []
        self.document = Document()
        self.effects: list[ClusterEffect] = []
        self.connected = False
        self.do(lambda: self.member.models_changed([MODEL], self.now))
        self.do(lambda: self.member.interfaces_changed(ETH, self.now))

    def do(self, call: Callable[[], list[ClusterEffect]]) -> list[ClusterEffect]:
        self.effects = call()
        return self.effects

    def link(self) -> list[ClusterEffect]:
        self.connected = True
        self.do(lambda: self.member.liveliness(MASTER, self.now, alive=True))
        return self.do(lambda: self.member.link_up(self.now))

    def hear(self, topic: str, message: Any) -> list[ClusterEffect]:
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self.do(lambda: self.member.receive(topic, payload, self.now))

    def event(self, event: Any, index: int | None = None, session: Any = SESSION) -> list[ClusterEffect]:
        if index is None:
            index = len(self.log)
            self.log.append(event)
            self.document.apply(index, event)
        message = {"origin_idx": index, "origin": session["master_node_id"], "session": session, "event": event}
        return self.hear("global_events", message) if self.connected else []

    def says(self, kind: str, **body: Any) -> list[ClusterEffect]:
        return self.event({kind: {"event_id": f"x{len(self.log)}", **body}})

    def sign(self, node: str = MASTER) -> list[ClusterEffect]:
        info = {"MiscData": {"friendly_name": "mac"}}
        return self.says("NodeGatheredInfo", node_id=node, when="2026-01-01 00:00:00+00:00", info=info)

    def tick(self, seconds: float) -> list[ClusterEffect]:
        """Time passes, and the shell looks again whenever it was told to."""
        until = self.now + seconds
        found: list[ClusterEffect] = []
        while (deadline := self.member.deadline) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            found += self.member.tick(self.now)
        self.now = until
        self.effects = found
        return found

    def echo(self, effects: list[ClusterEffect] | None = None) -> None:
        """The master takes in what was sent, until nothing more follows from it."""
        waiting = list(self.effects if effects is None else effects)
        while waiting:
            sent = [effect for effect in waiting if isinstance(effect, SendEffect)]
            waiting = []
            for effect in sent:
                message = json.loads(effect.payload)
                if effect.topic == "local_events":
                    waiting += self.event(message["event"])
                elif "CreateInstance" in message.get("command", {}):
                    waiting += self.says("InstanceCreated", instance=message["command"]["CreateInstance"]["instance"])
                elif "DeleteInstance" in message.get("command", {}):
                    gone = message["command"]["DeleteInstance"]["instance_id"]
                    waiting += self.says("InstanceDeleted", instance_id=gone)
                elif "AddCustomModelCard" in message.get("command", {}):
                    card = message["command"]["AddCustomModelCard"]["model_card"]
                    waiting += self.says("CustomModelCardAdded", model_card=card)

    def join(self, answer: Any = ...) -> None:
        self.link()
        self.sign()
        told = NodeAnswer(MASTER, self.document.document(), openapi()) if answer is ... else answer
        self.do(lambda: self.member.node_answered(told, self.now))
        self.echo()
        assert self.member.phase is Phase.SERVING

    def ask(self, task: str = "t") -> list[ClusterEffect]:
        (instance,) = self.document.instances
        body = {
            "task_id": task,
            "task_status": "Pending",
            "instance_id": instance,
            "command_id": f"c-{task}",
            "task_params": {"model": "m", "input": []},
            "error_type": None,
            "error_message": None,
        }
        return self.says("TaskCreated", task_id=task, task={"TextGeneration": body})

    def kinds(self, effects: list[ClusterEffect]) -> list[str]:
        found = []
        for effect in effects:
            if isinstance(effect, SendEffect):
                message = json.loads(effect.payload)
                what = message.get("event") or message.get("command") or {"ElectionMessage": {}}
                found.append(next(iter(what)))
        return found


def sentences(effects: list[ClusterEffect]) -> list[str]:
    return [effect.sentence for effect in effects if isinstance(effect, LogEffect)]


# ── joining ──


def test_nothing_is_published_before_the_cluster_is_compared() -> None:
    wire = Wire()
    assert wire.link() == []
    assert wire.member.phase is Phase.LISTENING
    effects = wire.sign()
    assert [effect for effect in effects if isinstance(effect, QueryNodesEffect)] == [
        QueryNodesEffect((MASTER,), openapi=True)
    ]
    assert wire.kinds(effects) == []
    assert wire.kinds(wire.tick(1.0)) == []
    answer = NodeAnswer(MASTER, wire.document.document(), openapi())
    joined = wire.do(lambda: wire.member.node_answered(answer, wire.now))
    assert wire.kinds(joined) == ["NodeGatheredInfo"] * 5
    wire.echo()
    assert wire.member.phase is Phase.SERVING  # type: ignore[comparison-overlap]  # a call in between changes it
    assert list(wire.document.runners.values()) == [{"RunnerReady": {"prefill_server_port": None}}]


def test_a_cluster_without_an_api_is_read_from_its_first_event() -> None:
    wire = Wire()
    for _ in range(5):
        wire.sign()
    wire.link()
    wire.sign()
    assert wire.kinds(wire.tick(m.QUERY_TIMEOUT)) == ["NodeGatheredInfo"] * 5 + ["RequestEventLog"]
    joining = list(wire.effects)
    for index, event in enumerate(wire.log):
        wire.event(event, index)
    wire.echo(joining)
    assert wire.member.phase is Phase.SERVING


def test_snapshot_of_another_session_is_ignored() -> None:
    wire = Wire()
    wire.sign()
    wire.link()
    wire.sign()
    strange = {**wire.document.document(), "lastEventAppliedIdx": 90_000}
    effects = wire.do(lambda: wire.member.node_answered(NodeAnswer(MASTER, strange, openapi()), wire.now))
    assert "RequestEventLog" in wire.kinds(effects + wire.tick(0.0))


def test_state_of_another_node_is_not_believed_after_an_election() -> None:
    """It may not have heard the result: with two masters, instances of ours were never seen again, nor deleted."""
    wire = Wire()
    wire.join()
    session = {"master_node_id": "bb", "election_clock": 4}
    wire.hear("election_messages", {"clock": 4, "seniority": 1, "proposed_session": session, "commands_seen": 0})
    wire.tick(4)
    answer = NodeAnswer(MASTER, wire.document.document(), openapi())
    wire.do(lambda: wire.member.node_answered(answer, wire.now))
    assert wire.member.view(wire.now).log_index == -1


def test_publishing_waits_for_the_choice_of_cluster() -> None:
    wire = Wire()
    wire.member.may_publish = False
    wire.link()
    wire.sign()
    answer = NodeAnswer(MASTER, wire.document.document(), openapi())
    assert wire.kinds(wire.do(lambda: wire.member.node_answered(answer, wire.now))) == []
    assert wire.kinds(wire.do(lambda: wire.member.permit(wire.now))) == ["NodeGatheredInfo"] * 5


def test_compared_node_is_not_compared_again() -> None:
    wire = Wire()
    wire.join()
    session = {"master_node_id": "bb", "election_clock": 4}
    wire.hear("election_messages", {"clock": 4, "seniority": 1, "proposed_session": session, "commands_seen": 0})
    wire.tick(4)
    assert QueryNodesEffect(("bb", MASTER), openapi=True) in wire.effects
    back = {"clock": 5, "seniority": 2, "proposed_session": SESSION, "commands_seen": 0}
    wire.hear("election_messages", back)
    wire.tick(4)
    assert QueryNodesEffect((MASTER,), openapi=False) in wire.effects


# ── a life ──


def test_answers_pass_through_in_turns_of_the_loop() -> None:
    wire = Wire()
    wire.join()
    (begin,) = [effect for effect in wire.ask() if isinstance(effect, BeginTaskEffect)]
    assert begin.model == MODEL.id
    together = wire.do(lambda: wire.member.engine_answered([("t", Piece("a", 1)), ("t", Piece("b", 2))], wire.now))
    assert wire.kinds(together) == ["TaskStatusUpdated", "RunnerStatusUpdated", "ChunkGenerated"]
    wire.echo()
    ending = wire.do(lambda: wire.member.engine_answered([("t", Piece("c", 3)), ("t", Finish("stop"))], wire.now))
    assert wire.kinds(ending) == ["ChunkGenerated", "TaskStatusUpdated", "RunnerStatusUpdated"]
    chunk = json.loads(next(e.payload for e in ending if isinstance(e, SendEffect)))["event"]["ChunkGenerated"]["chunk"]
    assert (chunk["TokenChunk"]["text"], chunk["TokenChunk"]["finish_reason"]) == ("c", "stop")
    view = wire.member.view(wire.now)
    assert (view.counters.tasks, view.unechoed) == (1, 3)
    assert view.counters.echoes.count > 0


def test_cancelled_task_sends_no_waiting_chunk() -> None:
    wire = Wire()
    wire.join()
    wire.ask()
    for number in range(300):  # more than may be under way
        answered = [("t", Piece(f"{number} ", number))]
        wire.do(functools.partial(wire.member.engine_answered, answered, wire.now))
    effects = wire.says("TaskStatusUpdated", task_id="t", task_status="Cancelled")
    assert CancelTaskEffect("t", "c-t") in effects
    before = wire.member.view(wire.now).counters.events_out
    wire.tick(0.0)
    assert wire.member.view(wire.now).counters.events_out == before


def test_a_sign_of_life_every_five_seconds_and_nothing_else() -> None:
    wire = Wire()
    wire.join()
    for second in range(60):
        effects = wire.tick(1.0)
        assert len([effect for effect in effects if isinstance(effect, SendEffect)]) <= 1
        wire.echo()
        if second % 3 == 0:
            wire.sign()
    view = wire.member.view(wire.now)
    assert view.counters.resends == 0
    assert view.phase is Phase.SERVING


def told_metrics(effects: list[ClusterEffect]) -> list[Any]:
    sent = [json.loads(effect.payload) for effect in effects if isinstance(effect, SendEffect)]
    infos = [one["event"]["NodeGatheredInfo"]["info"] for one in sent if "NodeGatheredInfo" in one.get("event", {})]
    return [info["MacmonMetrics"]["system_profile"] for info in infos if "MacmonMetrics" in info]


class Meter:
    """A board whose sensors tremble, and whose load is set."""

    def __init__(self) -> None:
        self.load = 0.0
        self.reads = 0

    def __call__(self) -> BoardGauges:
        self.reads += 1
        return BoardGauges(8 << 30, self.load, 51.0 + 0.1 * (self.reads % 3), 4.02 + 0.01 * (self.reads % 2))


def passing(wire: Wire, seconds: int) -> list[ClusterEffect]:
    """Seconds go by in a cluster whose master is heard; returns what was sent."""
    sent: list[ClusterEffect] = []
    for _ in range(seconds):
        effects = [effect for effect in wire.tick(1.0) if isinstance(effect, SendEffect)]
        assert len(effects) <= 1
        sent += effects
        wire.echo(list(effects))
        wire.sign()
    return sent


def test_idle_board_tells_its_gauges_when_they_change_and_speaks_no_more_for_it() -> None:
    meter = Meter()
    wire = Wire(gauges=meter)
    wire.join()
    reads = meter.reads
    sent = passing(wire, 60)
    assert told_metrics(sent) == []
    assert meter.reads - reads <= 12
    assert len(sent) <= 12
    meter.load = 0.5
    assert [one["gpu_usage"] for one in told_metrics(passing(wire, 5))] == [0.5]


def test_working_board_tells_its_load_at_exos_own_pace() -> None:
    meter = Meter()
    wire = Wire(gauges=meter)
    wire.join()
    wire.ask()
    wire.do(lambda: wire.member.engine_answered([("t", Piece("x", 1))], wire.now))
    wire.echo()
    told = []
    for second in range(10):
        meter.load = second / 10
        told += told_metrics(passing(wire, 1))
    assert [one["gpu_usage"] for one in told] == [second / 10 for second in range(1, 10)]
    reads = meter.reads
    meter.load = 0.95
    assert len(told_metrics(passing(wire, 4))) == 1, "what did not change is not told again"
    assert meter.reads - reads <= 5
    wire.do(lambda: wire.member.engine_answered([("t", Finish("stop"))], wire.now))
    wire.echo()
    meter.load = 0.0
    assert [one["gpu_usage"] for one in told_metrics(passing(wire, 5))] == [0.0]


def test_board_whose_master_is_silent_tells_its_gauges_with_the_probe_for_it() -> None:
    """Each probe is a sign of life, too, so that none was due any more and the gauges stayed untold."""
    meter = Meter()
    wire = Wire(gauges=meter)
    wire.join()
    meter.load = 0.4
    told = told_metrics(wire.tick(4.5))
    assert [one["gpu_usage"] for one in told] == [0.4]


def test_cluster_whose_metrics_have_another_shape_gets_none_of_ours_and_keeps_the_board() -> None:
    meter = Meter()
    wire = Wire(gauges=meter)
    wire.join()
    odd = {"MacmonMetrics": {"system_profile": {"fans": 2}, "memory": {}}}
    wire.says("NodeGatheredInfo", node_id="mac", when="2026-01-01 00:00:00+00:00", info=odd)
    meter.load = 0.7
    assert told_metrics(wire.tick(6.0)) == []
    assert wire.member.phase is Phase.SERVING


def edges_to_a_mac(wire: Wire, *infos: Any) -> list[str]:
    when = "2026-01-01 00:00:00+00:00"
    effects = [one for info in infos for one in wire.says("NodeGatheredInfo", node_id="mac", when=when, info=info)]
    events = [json.loads(effect.payload).get("event", {}) for effect in effects if isinstance(effect, SendEffect)]
    edges = [event["TopologyEdgeCreated"]["conn"]["edge"] for event in events if "TopologyEdgeCreated" in event]
    return [edge["sink_multiaddr"]["address"] for edge in edges]


ADDRESSES = {
    "NodeNetworkInterfaces": {
        "ifaces": [
            {"name": "en0", "ip_address": address, "interface_type": "wifi"}
            for address in ("fe80::1", "127.0.0.1", "nonsense", "10.77.0.9")
        ]
    }
}
MLX = {"NodeBackends": {"backends": ["MlxCpu"]}}


def test_line_to_each_node_of_exo_is_told_once_and_again_after_it_was_lost() -> None:
    wire = Wire()
    wire.join()
    assert edges_to_a_mac(wire, ADDRESSES, {"NodeBackends": {"backends": []}}) == [], "another board"
    assert edges_to_a_mac(wire, MLX, MLX, ADDRESSES) == ["/ip4/10.77.0.9/tcp/52415"]
    wire.says("NodeTimedOut", node_id="mac")
    assert edges_to_a_mac(wire, ADDRESSES, MLX) == ["/ip4/10.77.0.9/tcp/52415"]


def test_cluster_whose_edges_have_another_shape_is_told_of_none() -> None:
    wire = Wire()
    wire.join()
    wire.says("TopologyEdgeCreated", conn={"source": "a", "sink": "b", "edge": {"cable": "red"}})
    assert edges_to_a_mac(wire, ADDRESSES, MLX) == []
    assert wire.member.phase is Phase.SERVING


def test_new_addresses_are_told_at_once() -> None:
    wire = Wire()
    wire.join()
    more = (*ETH, {"name": "eth1", "ip_address": "10.1.0.2", "interface_type": "ethernet"})
    assert wire.kinds(wire.do(lambda: wire.member.interfaces_changed(more, wire.now))) == ["NodeGatheredInfo"]
    assert wire.do(lambda: wire.member.interfaces_changed(more, wire.now)) == []


def test_what_was_not_echoed_is_sent_again_unchanged_and_soon_after_a_lost_link() -> None:
    wire = Wire()
    wire.join()
    wire.ask()
    wire.do(lambda: wire.member.engine_answered([("t", Piece("a", 1))], wire.now))
    wire.echo()
    first = wire.do(lambda: wire.member.engine_answered([("t", Piece("b", 2))], wire.now))
    sent = [effect.payload for effect in first if isinstance(effect, SendEffect)]
    wire.do(lambda: wire.member.link_down(wire.now))
    wire.tick(2.0)
    assert wire.kinds(wire.effects) == []
    wire.do(lambda: wire.member.liveliness(MASTER, wire.now, alive=True))
    wire.do(lambda: wire.member.link_up(wire.now))
    again = [effect.payload for effect in wire.tick(0.5) if isinstance(effect, SendEffect)]
    assert [one for one in again if b"MiscData" not in one] == sent
    assert len(again) == len(sent) + 1  # and something that tells whether the master lives
    assert wire.member.view(wire.now).counters.resends == len(sent)


def test_new_session_cancels_tasks_and_restarts_indices() -> None:
    wire = Wire()
    wire.join()
    wire.ask()
    wire.do(lambda: wire.member.engine_answered([("t", Piece("a", 1))], wire.now))
    session = {"master_node_id": "bb", "election_clock": 4}
    wire.hear("election_messages", {"clock": 4, "seniority": 1, "proposed_session": session, "commands_seen": 0})
    info = {"MiscData": {"friendly_name": "b"}}
    body = {"event_id": "y", "node_id": "bb", "when": "2026-01-01 00:00:00+00:00", "info": info}
    effects = wire.event({"NodeGatheredInfo": body}, 0, session)
    assert CancelTaskEffect("t", "c-t") in effects
    assert any(isinstance(effect, QueryNodesEffect) for effect in effects)
    joined = wire.do(lambda: wire.member.node_answered(None, wire.now))
    envelopes = [json.loads(effect.payload) for effect in joined if isinstance(effect, SendEffect)]
    assert [envelope["origin_idx"] for envelope in envelopes] == list(range(5))
    assert {envelope["session"]["election_clock"] for envelope in envelopes} == {4}


def test_a_cluster_that_only_listens_is_made_to_elect() -> None:
    wire = Wire()
    wire.link()
    assert DeclareTokenEffect() in wire.tick(6.0)


def test_a_dead_master_is_nudged_away_by_whoever_is_in() -> None:
    wire = Wire()
    wire.join()
    assert "ElectionMessage" in wire.kinds(wire.tick(20.0))


def test_leaving_deletes_instances_and_runners() -> None:
    wire = Wire()
    wire.join()
    wire.do(lambda: wire.member.leave(wire.now))
    assert not wire.member.gone
    wire.echo()
    assert wire.member.gone
    assert wire.document.instances == wire.document.runners == {}
    assert wire.kinds(wire.tick(30)) == []


def test_leaving_before_joining_waits_for_nothing() -> None:
    wire = Wire()
    wire.do(lambda: wire.member.leave(wire.now))
    assert wire.member.gone


# ── garbage and differences ──


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"\xff\xfe", b'{"event": 5}', b'{"event": {"X": {}}}', b"[" * 100_000, b"null"]
)
def test_garbage_is_counted_and_changes_nothing(payload: bytes) -> None:
    wire = Wire()
    wire.join()
    for topic in m.TOPICS:
        wire.hear(topic, payload)
    view = wire.member.view(wire.now)
    assert view.counters.garbage == 3
    assert view.phase is Phase.SERVING


def test_global_events_of_others_than_the_master_are_ignored() -> None:
    wire = Wire()
    wire.join()
    before = wire.member.view(wire.now).log_index
    event = {"NodeTimedOut": {"event_id": "z", "node_id": MASTER}}
    message = {"origin_idx": before + 1, "origin": "mallory", "session": SESSION, "event": event}
    wire.hear("global_events", message)
    assert wire.member.view(wire.now).log_index == before


def test_difference_in_a_running_session_makes_us_passive() -> None:
    wire = Wire()
    wire.join()
    wire.ask()
    body = {"event_id": "z", "task_id": "t", "task_status": "Running", "priority": 3}
    effects = wire.event({"TaskStatusUpdated": body}, len(wire.log))
    assert CancelTaskEffect("t", "c-t") in effects
    view = wire.member.view(wire.now)
    assert view.phase is Phase.PASSIVE
    assert "unknown field 'priority'" in view.sentence
    assert "Nothing is published" in view.sentence
    assert view.drift == ("event.TaskStatusUpdated: unknown field 'priority'",)
    assert wire.kinds(wire.tick(60)) == []


def test_unknown_event_is_only_noted() -> None:
    wire = Wire()
    wire.join()
    effects = wire.says("QuorumReached", votes=3)
    assert "unknown Event 'QuorumReached'" in sentences(effects)[0]
    assert sentences(wire.says("QuorumReached", votes=3)) == []
    assert wire.member.phase is Phase.SERVING
    assert len(wire.member.view(wire.now).notes) == 1


def test_several_differences_are_all_named() -> None:
    wire = Wire()
    wire.link()
    wire.sign()
    document = openapi()
    document["components"]["schemas"]["ModelCard"]["required"].append("family")
    state = {**wire.document.document(), "quorum": {}}
    effects = wire.do(lambda: wire.member.node_answered(NodeAnswer(MASTER, state, document), wire.now))
    assert wire.member.view(wire.now).drift == ("State: quorum is new", "ModelCard: family is required")
    assert "and 1 more" in sentences(effects)[0]


def test_a_state_that_cannot_be_read_is_a_difference() -> None:
    wire = Wire()
    wire.link()
    wire.sign()
    state = {**wire.document.document(), "instances": []}
    wire.do(lambda: wire.member.node_answered(NodeAnswer(MASTER, state, None), wire.now))
    assert wire.member.view(wire.now).drift == ("State: no instances",)


# ── kept out ──


def poisoned() -> Wire:
    """The exo node ends within a second of our first words."""
    wire = Wire()
    wire.link()
    wire.sign()
    wire.do(lambda: wire.member.node_answered(None, wire.now))
    wire.now += 0.3
    wire.do(lambda: wire.member.liveliness(MASTER, wire.now, alive=False))
    wire.do(lambda: wire.member.link_down(wire.now))
    wire.tick(RECOVERY)
    return wire


def test_cluster_that_dies_of_our_first_messages_is_left() -> None:
    wire = poisoned()
    (stay,) = [effect for effect in wire.effects if isinstance(effect, StayOutEffect)]
    assert "NodeGatheredInfo/MiscData" in stay.sentence
    assert wire.member.phase is Phase.OUT
    assert wire.kinds(wire.link() + wire.sign() + wire.tick(60)) == []
    assert wire.member.view(wire.now).hint == "exo-rkllm cluster join"


def test_left_cluster_is_joined_again_on_invitation() -> None:
    wire = poisoned()
    wire.link()
    wire.sign()
    effects = wire.do(lambda: wire.member.invite(wire.now))
    assert StayOutEffect("") in effects
    assert any(isinstance(effect, QueryNodesEffect) for effect in effects)
    wire.do(lambda: wire.member.node_answered(NodeAnswer(MASTER, wire.document.document(), openapi()), wire.now))
    wire.echo()
    assert wire.member.view(wire.now).phase is Phase.SERVING


def test_moved_link_is_not_taken_for_a_crash() -> None:
    wire = Wire()
    wire.link()
    wire.do(lambda: wire.member.liveliness("bb", wire.now, alive=True))
    wire.sign()
    wire.do(lambda: wire.member.node_answered(None, wire.now))
    for node in (MASTER, "bb"):
        wire.do(lambda node=node: wire.member.liveliness(node, wire.now, alive=False))  # type: ignore[misc]  # bound now
    wire.do(lambda: wire.member.link_down(wire.now))
    wire.do(lambda: wire.member.liveliness("bb", wire.now, alive=True))
    wire.do(lambda: wire.member.link_up(wire.now))
    wire.tick(RECOVERY)
    assert wire.member.phase is Phase.JOINING


def test_cut_cable_is_not_taken_for_a_crash() -> None:
    """What was said first into a dead link proves nothing: the link is seen to be dead after ten seconds."""
    wire = Wire()
    wire.join()
    wire.ask()
    wire.tick(7.0)
    wire.do(lambda: wire.member.engine_answered([("t", Piece("a", 1))], wire.now))
    wire.tick(3.0)
    wire.do(lambda: wire.member.link_down(wire.now))
    wire.tick(5.0)
    assert wire.member.phase is Phase.SERVING


def test_node_kept_out_at_start_publishes_nothing() -> None:
    wire = Wire(stay_out="It died of us.")
    assert wire.kinds(wire.link() + wire.sign() + wire.tick(30)) == []
    view = wire.member.view(wire.now)
    assert (view.phase, view.sentence) == (Phase.OUT, "It died of us.")


def test_twin_with_our_node_id_is_noticed() -> None:
    wire = Wire()
    wire.join()
    wire.sign(ME)
    assert wire.member.phase is Phase.SERVING
    wire.tick(TWIN + 0.1)
    assert "uses our node id" in sentences(wire.sign(ME))[0]
    assert wire.member.phase is Phase.OUT  # type: ignore[comparison-overlap]  # a call in between changes it
    assert not [effect for effect in wire.effects if isinstance(effect, StayOutEffect)]


# ── what is shown ──


def test_the_view_names_everybody() -> None:
    wire = Wire()
    assert wire.member.view(wire.now).phase is Phase.SEARCHING
    assert wire.member.master == ""
    wire.join()
    wire.sign()
    wire.ask()
    view = wire.member.view(wire.now)
    assert (view.master, wire.member.master) == ("mac", MASTER)
    assert {node.id: (node.master, node.me) for node in view.nodes} == {MASTER: (True, False), ME: (False, True)}
    (instance,) = view.instances
    assert (instance.node, instance.status, instance.tasks, instance.mine) == ("opi5", "Ready", 1, True)
    assert view.tasks == 1
    assert json.dumps(view.plain())
    assert wire.member.local.replica.addresses() == {ME: ("10.0.0.2",)}
    wire.do(lambda: wire.member.link_down(wire.now))
    assert wire.member.view(wire.now).sentence == "No link to any exo node."


def test_a_message_that_would_not_fit_is_replaced_by_a_harmless_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The master waits for every index; here the guard before the choke point is taken away."""
    wire = Wire()
    wire.join()
    wire.ask()
    monkeypatch.setattr("exo_rkllm.cluster.wire.clean.text", lambda text: text)
    effects = wire.do(lambda: wire.member.engine_answered([("t", Piece("\ud800", 1))], wire.now))
    assert wire.kinds(effects)[-1] == "NodeGatheredInfo"
    indices = [json.loads(effect.payload)["origin_idx"] for effect in effects if isinstance(effect, SendEffect)]
    assert indices == list(range(indices[0], indices[0] + len(indices)))
    assert wire.member.view(wire.now).counters.refused == 1
    card = replace(MODEL, id="\ud800")
    wire.do(lambda: wire.member.models_changed([MODEL, card], wire.now))
    assert wire.member.view(wire.now).counters.refused > 1
