"""Clients take turns, whatever number of requests each of them throws in."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_rkllm.dispatch.queue import EMPTY, REMEMBERED, FairQueue, QueueEntry


def line_of(clients: str) -> FairQueue:
    queue = EMPTY
    for ticket, client in enumerate(clients, 1):
        queue = queue.join(QueueEntry(ticket, client, since=0.0))
    return queue


def order(queue: FairQueue) -> str:
    return "".join(entry.client for entry in queue.entries)


def serve(queue: FairQueue) -> tuple[str, FairQueue]:
    entry = queue.next()
    assert entry is not None
    return entry.client, queue.start(entry.ticket)


@pytest.mark.parametrize(
    ("arrivals", "turns"),
    [("abc", "abc"), ("aaab", "abaa"), ("aabbcc", "abcabc"), ("aaaabbc", "abcabaa")],
)
def test_each_client_gets_one_turn_a_round(arrivals: str, turns: str) -> None:
    assert order(line_of(arrivals)) == turns


def test_a_newcomer_passes_a_flood_but_nobody_who_waits_for_a_first_turn() -> None:
    queue = line_of("aaaaaab")
    _, queue = serve(queue)
    assert order(queue.join(QueueEntry(99, "c", 0.0))) == "bcaaaaa"


def test_client_that_asks_again_at_once_does_not_jump_the_queue() -> None:
    first, queue = serve(line_of("abcd"))
    assert order(queue.join(QueueEntry(9, first, 0.0))) == "bcda"


def test_a_client_that_is_being_answered_has_had_its_turn() -> None:
    _, queue = serve(line_of("a"))
    assert order(queue.join(QueueEntry(2, "a", 0.0)).join(QueueEntry(3, "b", 0.0))) == "ba"


def test_giving_up_costs_no_turn() -> None:
    queue = line_of("aab")
    queue = queue.leave({1})
    assert order(queue) == "ab"
    assert order(queue.join(QueueEntry(9, "a", 0.0))) == "aba"


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=20), st.data())
def test_leaving_together_is_leaving_one_by_one(clients: list[str], data: st.DataObject) -> None:
    queue = together = line_of("".join(clients))
    gone = data.draw(st.sets(st.sampled_from(range(1, len(clients) + 1)))) if clients else set[int]()
    for ticket in data.draw(st.permutations(sorted(gone))):
        queue = queue.leave({ticket})
    assert together.leave(gone) == queue
    assert together.leave({99}) is together


def test_claim_of_another_model_lets_only_earlier_requests_start() -> None:
    queue = line_of("ab")
    assert queue.next(before=1) is None
    entry = queue.next(before=2)
    assert entry is not None
    assert entry.client == "a"


def test_clients_of_past_rounds_are_forgotten() -> None:
    queue = line_of("a")
    for ticket in range(2, 3000):
        queue = queue.join(QueueEntry(ticket, f"client {ticket}", 0.0)).start(ticket - 1)
        assert len(queue.latest) <= REMEMBERED + 2


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=60), st.data())
def test_busy_clients_get_equally_many_turns(arrivals: list[str], data: st.DataObject) -> None:
    """Clients who always wait are never apart by more than one turn."""
    queue = line_of("".join(arrivals))
    ticket = len(arrivals)
    served: Counter[str] = Counter()
    always = set(arrivals)
    for _ in range(40):
        client, queue = serve(queue)
        served[client] += 1
        if data.draw(st.booleans()) or not queue.count(client):
            ticket += 1
            queue = queue.join(QueueEntry(ticket, client, 0.0))
        assert max(served[client] for client in always) - min(served[client] for client in always) <= 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("jsl"), st.sampled_from("abc")), max_size=80))
def test_queue_loses_and_doubles_no_request(steps: list[tuple[str, str]]) -> None:
    queue, inside, ticket = EMPTY, set[int](), 0
    for what, client in steps:
        if what == "j":
            ticket += 1
            inside.add(ticket)
            queue = queue.join(QueueEntry(ticket, client, 0.0))
        elif inside and what == "s":
            entry = queue.next()
            assert entry is not None
            inside.remove(entry.ticket)
            queue = queue.start(entry.ticket)
        elif inside:
            gone = sorted(inside)[len(inside) // 2]
            inside.remove(gone)
            queue = queue.leave({gone})
        assert sorted(entry.ticket for entry in queue.entries) == sorted(inside)
        rounds = [(entry.client, entry.round) for entry in queue.entries]
        assert len(set(rounds)) == len(rounds), "one request a client and round"
        assert len(queue) == sum(queue.count(client) for client in "abc")


def continuing(*keys: int, ticket: int, client: str) -> QueueEntry:
    return QueueEntry(ticket, client, 0.0, conversation=keys)


def test_whoever_continues_what_is_hot_is_preferred_within_a_round() -> None:
    queue = EMPTY.join(continuing(1, ticket=1, client="a")).join(continuing(7, 8, ticket=2, client="b"))
    assert queue.next(hot=7) == queue.entry(2)
    assert queue.next(hot=5) == queue.next() == queue.entry(1)
    later = queue.join(continuing(5, ticket=3, client="b"))
    assert later.next(hot=5) == later.entry(1), "b has had its turn of this round with its first request"


def test_requests_of_one_client_are_preferred_over_each_other() -> None:
    """A chat server is one client, whoever of its users asks."""
    queue = EMPTY.join(continuing(1, ticket=1, client="a")).join(continuing(7, ticket=2, client="a"))
    assert queue.next(hot=7) == queue.entry(2)


def test_nobody_is_overtaken_for_ever() -> None:
    queue, hot = EMPTY.join(continuing(1, ticket=1, client="a")), 7
    served = []
    for ticket in range(2, 6):
        queue = queue.join(continuing(hot, ticket=ticket, client="a"))
        entry = queue.next(hot=hot)
        assert entry is not None
        served.append(entry.ticket)
        queue = queue.start(entry.ticket)
    assert served == [2, 3, 1, 4]


def test_background_question_takes_no_turn_and_waits_for_a_bounded_number_of_others() -> None:
    queue = EMPTY.join(QueueEntry(1, "a", 0.0, background=True)).join(QueueEntry(2, "a", 0.0))
    assert [entry.ticket for entry in queue.entries] == [2, 1]
    queue = queue.start(2)
    served = []
    for ticket in range(3, 9):
        queue = queue.join(QueueEntry(ticket, "a", 0.0))
        entry = queue.next()
        assert entry is not None
        served.append(entry.ticket)
        queue = queue.start(entry.ticket)
    assert 1 in served
    assert served.index(1) >= 3
    assert len(EMPTY.join(QueueEntry(1, "a", 0.0, background=True)).leave({1})) == 0


def test_background_question_that_leaves_moves_nobody() -> None:
    queue = EMPTY.join(QueueEntry(1, "a", 0.0, background=True)).join(QueueEntry(2, "a", 0.0)).leave({1})
    assert [entry.ticket for entry in queue.entries] == [2]
    assert queue.latest == {"a": 0}
