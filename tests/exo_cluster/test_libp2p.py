"""An exo of before zenoh: heard by its mDNS, and named wherever people look."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exo_rkllm.cli.cluster import report
from exo_rkllm.cluster.discovery import libp2p
from exo_rkllm.cluster.discovery.libp2p import MdnsAnswer, MdnsQuestion, question, read, sentence_of
from tests.exo_cluster.lab import Host, Lab, until
from tests.exo_cluster.standin.libp2p import answer


PEER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"


def is_exo(data: bytes) -> bool:
    return isinstance(read(data), MdnsAnswer)


@pytest.mark.parametrize("pointers", [False, True])
def test_answer_of_exo_is_told_from_those_of_other_libp2p_programs_by_its_lifetime(pointers: bool) -> None:
    endpoint = f"/ip4/10.77.0.1/tcp/50123/p2p/{PEER}"
    assert read(answer(2500, pointers=pointers)) == MdnsAnswer((("10.77.0.1", endpoint),))
    assert not is_exo(answer(360, pointers=pointers)), "libp2p's own default, as IPFS has"


def test_questions_and_answers_about_other_services_are_no_exo() -> None:
    assert read(question()) is None, "another board asks"
    assert read(b"\1\2" + question()[2:]) == MdnsQuestion(), "a libp2p program that starts"
    assert not is_exo(answer(2500).replace(b"_p2p", b"_ipp"))
    assert not is_exo(b"")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 200), st.binary(max_size=40), st.integers(0, 200))
def test_garbage_is_no_exo_and_breaks_nothing(cut: int, noise: bytes, at: int) -> None:
    whole = answer(2500, pointers=True)
    read(whole[:at] + noise + whole[at + len(noise) :][:cut])
    read(libp2p.encoded(libp2p.SERVICE) + noise)


def test_name_that_points_at_itself_ends() -> None:
    service = libp2p.encoded(libp2p.SERVICE)
    for pointer in (b"\xc0\x0c", b"\xc0\x20", b"\xff\xff"):
        assert not is_exo(b"\0\0\x84\0\0\0\0\2\0\0\0\0" + pointer + service)


@pytest.mark.parametrize("missing", [True, False])
def test_sentence_says_why_an_old_exo_is_not_joined_and_what_to_do(missing: bool) -> None:
    sentence, hint = sentence_of(("10.0.0.7",), missing=missing)
    assert "10.0.0.7 and not joined" in sentence
    assert ("main branch" if missing else '"libp2p"') in hint


async def old_exo(lab: Lab, ttl: int = 2500) -> Host:
    host = lab.host()
    words = ("--address", host.address, "--ttl", str(ttl))
    process = await lab._spawn(host, "tests.exo_cluster.standin.libp2p", *words)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return host


async def test_libp2p_exo_is_named_by_log_and_view_and_does_not_keep_the_board_from_a_zenoh_one(lab: Lab) -> None:
    old = await old_exo(lab)
    await old_exo(lab, ttl=360)
    board = await lab.board()

    async def named() -> bool:
        return "libp2p" in (await board.view())["sentence"]

    await until(named, 10)
    view = await board.view()
    assert view["other_clusters"] == [f"exo 1.0.71 or older (libp2p) at {old.address}"]
    assert view["hint"]
    assert sum("(libp2p)" in line for line in board.said) == 1, "once a host, however often it speaks"
    assert any("libp2p" in line for line in report(json.loads(json.dumps(view))))
    await lab.exo()

    async def serving() -> bool:
        return bool((await board.view())["phase"] == "serving")

    await until(serving, 15)
    assert "libp2p" in (await board.view())["other_clusters"][0], "never left out beside a cluster that was joined"
