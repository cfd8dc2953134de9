"""The log in order whatever the network does, the master followed without a vote, events sent until they are echoed."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from exo_rkllm.cluster.effects import chunk_generated, runner_status
from exo_rkllm.cluster.session.election import (
    ECHO_IN,
    NUDGE_AGAIN,
    NUDGE_EVERY,
    NUDGE_RARELY,
    NUDGES,
    PROBE_AFTER,
    SETTLE,
    SETTLE_LINK,
    SILENT_CLUSTER,
    SILENT_MASTER,
    SILENT_SINCE_LINK,
    TWO_MASTERS,
    Adopt,
    DeclareToken,
    Follower,
    Nudge,
    Probe,
)
from exo_rkllm.cluster.session.log import FIRST_WAIT, KEPT, PAGE, EventLog
from exo_rkllm.cluster.session.publishing import RESEND, WINDOW, PublishQueue, merge
from exo_rkllm.cluster.wire import chunks
from exo_rkllm.cluster.wire.events import ElectionMessage, LogEntry, SessionId, Tagged

A, B = SessionId("aa", 0), SessionId("bb", 3)


def logged(index: int) -> LogEntry:
    return LogEntry(index, "aa", A, "TestEvent", f"e{index}", {})


# ── the log ──


@given(st.integers(1, 60), st.randoms(use_true_random=False), st.integers(0, 30))
def test_events_come_out_in_order_and_once(number: int, luck: random.Random, doubled: int) -> None:
    arriving = [*range(number), *(luck.randrange(number) for _ in range(doubled))]
    luck.shuffle(arriving)
    log = EventLog()
    out = [event.index for index in arriving for event in log.receive(logged(index), 0.0)]
    assert out == list(range(number))
    assert log.behind == 0
    assert log.deadline is None


@given(st.integers(1, 200), st.sets(st.integers(0, 199)), st.integers(0, 199))
def test_what_was_lost_is_asked_for_until_it_is_there(number: int, lost: set[int], snapshot: int) -> None:
    log = EventLog()
    out: list[int] = []
    for index in range(number):
        if index not in lost or index == number - 1:
            out += [event.index for event in log.receive(logged(index), 0.0)]
    out += [event.index for event in log.start_at(min(snapshot, number), 0.0)]
    now = 0.0
    while log.behind:
        assert log.deadline is not None
        now = max(now, log.deadline)
        since = log.gap(now)
        assert since == log.base
        for index in range(since, min(since + PAGE, number)):
            out += [event.index for event in log.receive(logged(index), now)]
    assert out == sorted(set(out))
    assert log.base >= number
    assert set(out) | set(range(min(snapshot, number))) == set(range(number))


def test_a_gap_is_asked_for_with_growing_patience() -> None:
    log = EventLog()
    log.receive(logged(5), 10.0)
    assert log.gap(10.0 + FIRST_WAIT / 2) is None
    waits, now = [], 10.0
    for _ in range(7):
        assert log.deadline is not None
        waits.append(log.deadline - now)
        now = log.deadline
        assert log.gap(now) == 0
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_long_log_is_read_page_after_page_without_waiting() -> None:
    log = EventLog()
    log.receive(logged(3 * PAGE), 0.0)
    log.start_at(0, 0.0)
    for page in range(3):
        assert log.gap(1.0) == page * PAGE
        for index in range(page * PAGE, (page + 1) * PAGE):
            log.receive(logged(index), 1.0)
    assert log.behind == 0


def test_what_waits_behind_a_gap_is_bounded() -> None:
    log = EventLog()
    for index in range(1, 3 * KEPT):
        log.receive(logged(index), 0.0)
    assert len(log.receive(logged(0), 0.0)) == KEPT + 1
    assert log.behind == 3 * KEPT - KEPT - 1


# ── whom to follow ──


def candidate(clock: int, session: SessionId, seniority: int = 1, seen: int = 0) -> ElectionMessage:
    return ElectionMessage(clock, seniority, seen, session)


def following(session: SessionId = A, now: float = 0.0) -> Follower:
    follower = Follower("me")
    follower.link_up(now)
    assert follower.event(session, now) == Adopt(session, "first event heard")
    return follower


def test_the_first_event_shows_the_master() -> None:
    follower = following()
    assert follower.session == A
    assert follower.event(A, 1.0) is None


def test_an_election_is_watched_until_it_is_over() -> None:
    follower = following()
    follower.candidate(candidate(4, B), 10.0)
    follower.candidate(candidate(4, SessionId("cc", 4), seniority=0), 10.1)
    follower.candidate(candidate(3, SessionId("dd", 3), seniority=9), 10.2)
    assert follower.tick(10.0 + SETTLE - 0.1) is None
    assert follower.deadline == 10.0 + SETTLE
    assert follower.tick(10.0 + SETTLE) == Adopt(B, "elected")


def test_the_winners_first_event_ends_the_wait() -> None:
    follower = following()
    follower.candidate(candidate(4, B), 10.0)
    assert follower.event(A, 11.0) is None
    assert follower.event(B, 13.05) == Adopt(B, "elected")
    assert follower.tick(13.05 + PROBE_AFTER - 0.1) is None


def test_an_election_that_changes_nothing() -> None:
    follower = following()
    follower.candidate(candidate(4, A), 10.0)
    follower.event(A, 13.0)
    assert follower.tick(14.0) is None
    assert follower.session == A


def test_a_newer_clock_begins_a_new_campaign() -> None:
    follower = following()
    follower.candidate(candidate(4, B, seniority=9), 10.0)
    follower.candidate(candidate(5, SessionId("cc", 5)), 12.0)
    assert follower.tick(10.0 + SETTLE) is None
    assert follower.tick(12.0 + SETTLE) == Adopt(SessionId("cc", 5), "elected")


def test_ties_go_to_commands_seen_and_then_to_the_id() -> None:
    follower = following()
    for session, seen in ((SessionId("bb", 4), 5), (SessionId("cc", 4), 5), (SessionId("dd", 4), 4)):
        follower.candidate(candidate(4, session, seen=seen), 10.0)
    assert follower.tick(20.0) == Adopt(SessionId("cc", 4), "elected")


def test_our_own_nudges_are_no_ballots() -> None:
    follower = following()
    follower.candidate(candidate(9, SessionId("me", 9)), 1.0)
    assert follower.tick(1.0 + SETTLE + 0.1) == Probe()
    assert follower.session == A


def test_another_master_is_followed_when_ours_is_silent() -> None:
    follower = following()
    assert follower.event(B, SILENT_MASTER - 1) is None
    assert follower.event(B, SILENT_MASTER + 0.1) == Adopt(B, "the master followed so far is silent")


def test_silent_master_is_left_sooner_after_a_lost_link() -> None:
    follower = following()
    follower.event(A, 5.0)
    follower.link_down()
    follower.link_up(100.0)
    assert follower.event(B, 101.0) is None
    assert follower.event(B, 100.0 + SILENT_SINCE_LINK + 0.1) == Adopt(B, "the master followed so far is silent")


def test_a_silent_cluster_is_made_to_speak_once() -> None:
    follower = Follower("me")
    assert follower.tick(100.0) is None
    follower.link_up(100.0)
    assert follower.deadline == 100.0 + SILENT_CLUSTER
    assert follower.tick(100.0 + SILENT_CLUSTER) == DeclareToken()
    assert follower.tick(200.0) is None
    follower.candidate(candidate(1, A), 106.0)
    assert follower.tick(106.0 + SETTLE) == Adopt(A, "elected")


def test_a_cluster_in_an_election_is_not_disturbed() -> None:
    follower = Follower("me")
    follower.link_up(0.0)
    follower.candidate(candidate(1, A), 4.0)
    assert follower.tick(SILENT_CLUSTER + 1) is None


def nudged(follower: Follower, number: int) -> list[tuple[float, int]]:
    """When it nudges without an answer, and with which clocks."""
    found: list[tuple[float, int]] = []
    while len(found) < number:
        now = follower.deadline or 0.0
        decision = follower.tick(now)
        assert isinstance(decision, Nudge)
        assert decision.message.seniority == -1
        assert decision.message.proposed_session.master_node_id == "me"
        found.append((now, decision.message.clock))
    return found


def test_after_a_lost_link_the_master_is_asked_for_a_sign_of_life() -> None:
    follower = following()
    follower.link_down()
    assert follower.deadline is None
    follower.link_up(50.0)
    assert follower.tick(50.0 + SETTLE_LINK) == Probe()
    assert follower.deadline == 50.0 + SETTLE_LINK + ECHO_IN
    follower.event(A, 50.0 + SETTLE_LINK + 0.1)
    assert follower.tick(50.0 + SETTLE_LINK + ECHO_IN) is None


def test_a_master_that_died_unnoticed_is_nudged_with_growing_clocks() -> None:
    follower = following(SessionId("aa", 3))
    assert follower.tick(PROBE_AFTER) == Probe()
    times, clocks = zip(*nudged(follower, 4), strict=True)
    assert clocks == (4, 5, 7, 11)
    assert times[0] == PROBE_AFTER + ECHO_IN
    assert times[-1] < times[0] + 2
    follower.candidate(candidate(11, B), times[-1])
    assert follower.tick(times[-1] + 2.5) is None


def test_nobody_is_nudged_for_ever_nor_soon_after_an_election_that_changed_nothing() -> None:
    follower = following()
    assert follower.tick(PROBE_AFTER) == Probe()
    times = [time for time, _ in nudged(follower, NUDGES + 2)]
    assert times[-1] - times[-2] == NUDGE_RARELY
    held = times[-1]
    follower.candidate(candidate(1 << 20, A), held)
    assert follower.tick(held + SETTLE) is None
    assert follower.tick(held + SETTLE + PROBE_AFTER) == Probe()
    assert follower.deadline == held + NUDGE_AGAIN


def test_two_masters_that_both_speak_are_made_to_elect() -> None:
    follower = following()
    now = 0.0
    clocks: list[int] = []
    while len(clocks) < 3:
        now += 0.5
        assert follower.event(A, now) is None
        decision = follower.event(B, now)
        if decision is not None:
            assert isinstance(decision, Nudge)
            clocks.append(decision.message.clock)
    assert now > TWO_MASTERS
    assert clocks == [4, 5, 7]  # B was elected at clock 3
    follower.candidate(candidate(7, B), now)
    for _ in range(30):
        now += 0.5
        follower.event(A, now)
        assert follower.event(B, now) in (None, Adopt(B, "elected"))


def test_late_event_of_a_former_master_does_not_hasten_nudges() -> None:
    follower = following()
    assert follower.event(B, 0.5) is None
    follower.event(A, 1.0)
    assert follower.tick(follower.deadline or 0.0) == Probe()
    times = [time for time, _ in nudged(follower, 4)]
    assert all(later - earlier >= NUDGE_EVERY - 1e-9 for earlier, later in itertools.pairwise(times))


def test_a_cluster_that_is_always_quiet_is_not_probed_all_the_time() -> None:
    """Nodes without a worker say nothing: every event is an echo of ours."""
    follower = following()
    now = 0.0
    for _ in range(20):
        now += 5.0
        follower.event(A, now)
    assert follower.deadline is not None
    assert follower.deadline > now + 10.0


# ── events on their way ──


def token(text: str, **more: Any) -> Tagged:
    return chunks.token("m", text, **{"token_id": 1, **more})


def put(box: PublishQueue, chunk: Tagged, command: str = "c") -> None:
    box.put(f"e-{command}-{chunk}", chunk_generated(command, chunk))


def queue() -> PublishQueue:
    box = PublishQueue()
    box.start("o", A)
    return box


def encode(message: Any) -> bytes:
    return json.dumps(message).encode()


def taken(box: PublishQueue, now: float = 0.0) -> list[Any]:
    return [json.loads(payload) for payload in box.take(now, encode)]


def chunks_of(messages: list[Any]) -> list[Any]:
    events = [message["event"] for message in messages]
    return [event["ChunkGenerated"]["chunk"] for event in events if "ChunkGenerated" in event]


def texts(box: PublishQueue) -> list[str]:
    return [chunk["TokenChunk"]["text"] for chunk in chunks_of(taken(box))]


def put_statuses(box: PublishQueue, number: int) -> None:
    for index in range(number):
        box.put(f"r{index}", runner_status("r", {"RunnerReady": {}}))


def test_events_are_numbered_without_holes_and_kept_until_they_are_echoed() -> None:
    box = queue()
    put_statuses(box, 3)
    payloads = box.take(0.0, encode)
    assert [json.loads(payload)["origin_idx"] for payload in payloads] == [0, 1, 2]
    assert not box.idle
    assert box.overdue(RESEND - 0.1) == []
    assert box.acknowledge("r1", 0.5) == 0.0
    assert box.acknowledge("r1", 0.5) is None
    assert box.overdue(RESEND) == [payloads[0], payloads[2]]
    assert box.overdue(RESEND) == []
    assert box.resends == 2
    assert box.deadline == 2 * RESEND
    box.acknowledge("r0", 6.0)
    box.acknowledge("r2", 6.0)
    assert box.idle
    assert box.deadline is None
    assert (box.echoes.count, box.echoes.longest) == (3, 6.0)


def test_no_more_than_the_window_is_under_way() -> None:
    box = queue()
    put_statuses(box, WINDOW + 50)
    assert len(taken(box)) == WINDOW
    assert taken(box) == []
    for number in range(10):
        box.acknowledge(f"r{number}", 0.1)
    assert len(taken(box, 0.2)) == 10


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["token", "thought", "prefill", "take", "echo"])),
        max_size=400,
    )
)
def test_coalescing_changes_no_answer(steps: list[tuple[str, str]]) -> None:
    """Each command's text, in order and with its kind, is what was put in, however the window and echoes fall."""
    box = queue()
    said: dict[str, list[tuple[bool, str]]] = {}
    got: dict[str, list[tuple[bool, str]]] = {}
    sent: list[str] = []

    def collect() -> None:
        for message in taken(box):
            event = message["event"]["ChunkGenerated"]
            sent.append(event["event_id"])
            chunk = event["chunk"].get("TokenChunk")
            if chunk is not None:
                got.setdefault(event["command_id"], []).append((chunk["is_thinking"], chunk["text"]))

    for number, (command, what) in enumerate(steps):
        if what == "take":
            collect()
        elif what == "echo" and sent:
            box.acknowledge(sent.pop(0), 0.0)
        elif what == "prefill":
            box.put(f"p{number}", chunk_generated(command, chunks.prefill_progress("m", number, 999)))
        elif what in ("token", "thought"):
            thinking = what == "thought"
            said.setdefault(command, []).append((thinking, f"{number} "))
            box.put(f"t{number}", chunk_generated(command, token(f"{number} ", token_id=number, thinking=thinking)))
    while not box.idle:
        collect()
        while sent:
            box.acknowledge(sent.pop(0), 0.0)

    def joined(entries: list[tuple[bool, str]]) -> list[tuple[bool, str]]:
        runs: list[tuple[bool, str]] = []
        for thinking, text in entries:
            if runs and runs[-1][0] == thinking:
                runs[-1] = (thinking, runs[-1][1] + text)
            else:
                runs.append((thinking, text))
        return runs

    assert {key: joined(value) for key, value in got.items()} == {key: joined(value) for key, value in said.items()}


def test_waiting_chunks_of_an_answer_become_one_though_others_stand_between() -> None:
    box = queue()
    for text in ("a", "b", "c"):
        put(box, token(text), "one")
        put(box, token(text.upper()), "two")
    assert texts(box) == ["abc", "ABC"]


def test_finish_is_merged_into_the_last_chunk() -> None:
    box = queue()
    put(box, token("bye"))
    put(box, token("", finish_reason="stop", token_id=-1))
    assert chunks_of(taken(box)) == [token("bye", finish_reason="stop")]


def test_chunks_of_different_kinds_are_not_merged() -> None:
    thought, word = token("hm", thinking=True), token("yes", token_id=2)
    end = token("", finish_reason="stop", token_id=-1)
    assert merge(thought, word) is None
    assert merge(end, word) is None
    assert merge(chunks.prefill_progress("m", 1, 2), word) is None
    assert merge(thought, end) == token("hm", finish_reason="stop", thinking=True)


def test_chunks_of_a_cancelled_command_are_dropped() -> None:
    box = queue()
    put(box, token("a"), "gone")
    put(box, token("b"), "here")
    put_statuses(box, 1)
    box.drop_chunks("gone")
    put(box, token("c"), "gone")
    assert texts(box) == ["b", "c"]
