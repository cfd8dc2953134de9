"""An exo of before zenoh: heard by its mDNS, and named wherever people look."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exo_rkllm.cli.cluster import report
from exo_rkllm.cluster.discovery import libp2p
from exo_rkllm.cluster.discovery.libp2p import LibP2pWatch, MdnsAnswer, MdnsQuestion, question, read, sentence_of
from exo_rkllm.cluster.discovery.transports import Transport, wanted
from tests.exo_cluster.conftest import NO_CRATE
from tests.exo_cluster.lab import Board, Host, Lab, chat, counted, ready, sees_both, until
from tests.exo_cluster.standin.libp2p import answer

PEER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"


def is_exo(data: bytes) -> bool:
    return isinstance(read(data), MdnsAnswer)


@pytest.mark.parametrize("pointers", [False, True])
def test_answer_of_exo_is_told_from_those_of_other_libp2p_programs_by_its_lifetime(pointers: bool) -> None:
    endpoint = f"/ip4/10.77.0.1/tcp/50123/p2p/{PEER}"
    assert read(answer(2500, pointers=pointers)) == MdnsAnswer((("10.77.0.1", endpoint),))
    assert not is_exo(answer(360, pointers=pointers)), "libp2p's own default, as IPFS has"


@pytest.mark.parametrize(("port", "believed"), [(22, False), (1023, False), (1024, True), (9999, True), (65535, True)])
def test_service_of_the_system_is_no_endpoint(port: int, believed: bool) -> None:
    found = read(answer(2500, port=port))
    assert isinstance(found, MdnsAnswer)
    assert bool(found.endpoints) is believed


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


@pytest.mark.parametrize(("why", "helps"), [("missing", "main branch"), ("named", '"libp2p"'), ("newer", '"libp2p"')])
def test_sentence_says_why_an_old_exo_is_not_joined_and_what_to_do(why: str, helps: str) -> None:
    sentence, hint = sentence_of(("10.0.0.7",), why)
    assert "10.0.0.7 and not joined" in sentence
    assert helps in hint


def endpoint(host: str, port: int) -> str:
    return f"/ip4/{host}/tcp/{port}/p2p/{PEER}"


async def test_watch_remembers_no_more_than_it_has_room_for() -> None:
    heard: list[str] = []
    found: list[str] = []
    watch = LibP2pWatch(lambda _: True, heard.append, found.append)
    for number in range(1000):
        host = f"10.0.{number // 250}.{number % 250}"
        ports = tuple((host, endpoint(host, port)) for port in range(1, 20))
        watch._hear(host, MdnsAnswer(ports), float(number) / 1000)
    assert len(heard) == len(watch._heard) == len(watch._endpoints) == libp2p.HOSTS
    assert all(len(ones) == libp2p.NODES for ones in watch._endpoints.values())
    watch.forget()
    assert watch.endpoints() == ()
    watch.close()


async def test_only_endpoints_at_the_address_that_answered_are_believed() -> None:
    found: list[str] = []
    watch = LibP2pWatch(lambda _: True, lambda _: None, found.append)
    now = asyncio.get_running_loop().time()
    watch._hear(
        "10.0.0.1", MdnsAnswer((("10.0.0.2", endpoint("10.0.0.2", 9)), ("10.0.0.1", endpoint("10.0.0.1", 8)))), now
    )
    assert found == list(watch.endpoints()) == [endpoint("10.0.0.1", 8)]
    assert watch.hosts(1.0) == ("10.0.0.1",)
    assert watch.hosts(-1.0) == ()
    watch.close()


BOTH_LIBRARIES = (Transport.ZENOH, Transport.LIBP2P)


@pytest.mark.parametrize(
    ("namespace", "endpoints", "installed", "transport", "label"),
    [
        ("auto", (), BOTH_LIBRARIES, None, "libp2p/v0.0.1"),
        ("auto", (), (Transport.ZENOH,), Transport.ZENOH, "libp2p/v0.0.1"),
        ("auto", (), (Transport.LIBP2P,), Transport.LIBP2P, "libp2p/v0.0.1"),
        ("auto", ("tcp/10.0.0.1:1",), BOTH_LIBRARIES, Transport.ZENOH, "libp2p/v0.0.1"),
        ("auto", ("/ip4/10.0.0.1/tcp/1",), BOTH_LIBRARIES, Transport.LIBP2P, "libp2p/v0.0.1"),
        ("auto", ("/ip4/10.0.0.1/tcp/1", "tcp/10.0.0.1:1"), BOTH_LIBRARIES, None, "libp2p/v0.0.1"),
        ("lab", (), BOTH_LIBRARIES, Transport.ZENOH, "libp2p/v0.0.1"),
        ("libp2p", (), (Transport.ZENOH,), Transport.LIBP2P, "libp2p/v0.0.1"),
        ("libp2p/lab", (), BOTH_LIBRARIES, Transport.LIBP2P, "libp2p/lab"),
    ],
)
def test_configuration_names_the_transport(
    namespace: str,
    endpoints: tuple[str, ...],
    installed: tuple[Transport, ...],
    transport: Transport | None,
    label: str,
) -> None:
    found = wanted(namespace, endpoints, installed)
    assert (found.transport, found.libp2p_label) == (transport, label)
    assert sum(found.endpoints.values(), ()) == tuple(sorted(endpoints, reverse=True))


async def old_exo(lab: Lab, ttl: int = 2500) -> Host:
    host = lab.host()
    words = ("--address", host.address, "--ttl", str(ttl))
    process = await lab._spawn(host, "tests.exo_cluster.standin.libp2p", *words)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return host


async def test_libp2p_exo_beside_a_configured_cluster_is_named_and_does_not_keep_the_board_from_it(lab: Lab) -> None:
    old = await old_exo(lab)
    await old_exo(lab, ttl=360)
    board = await lab.board(None, "--namespace", "0.3.70")

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


def libraries(board: Board) -> str:
    """What is mapped into its process."""
    return Path(f"/proc/{board.process.pid}/maps").read_text()


async def phase_in(board: Board, namespace: str) -> bool:
    view = await board.view()
    return (view["phase"], view["namespace"]) == ("serving", namespace)


async def all_echoed(board: Board) -> bool:
    return bool((await board.view())["unechoed"] == 0)


async def test_auto_joins_the_newer_of_two_exos_and_says_so(lab: Lab) -> None:
    pytest.importorskip("exo_libp2p", reason=NO_CRATE)
    released, _ = await asyncio.gather(lab.exo(released=True), lab.exo())
    board = await lab.board()
    await until(lambda: phase_in(board, "0.3.70"), 10)
    assert (await board.view())["other_clusters"] == [f"exo 1.0.71 or older (libp2p) at {released.host.address}"]
    assert sum("not joined: the newer exo is joined" in line for line in board.said) == 1
    assert "exo_libp2p" not in libraries(board)


async def test_auto_goes_over_to_the_other_exo_when_its_own_is_gone(lab: Lab) -> None:
    """Its owner updates exo, and later goes back."""
    pytest.importorskip("exo_libp2p", reason=NO_CRATE)
    released = await lab.exo(None, "--campaign", "0.2", released=True)
    board = await lab.board(None, "--start-over", "1")
    await until(lambda: phase_in(board, "libp2p/v0.0.1"), 10)
    await ready(released)
    await until(lambda: all_echoed(board), 5)  # an exo that ends before it echoes a message ended of it
    await released.kill()
    newer = await lab.exo(released.host, "--campaign", "0.2")
    await until(lambda: phase_in(board, "0.3.70"), 25)
    await ready(newer)
    assert (await chat(newer, "count 3")).text == counted(3)
    assert not any("and not joined" in line for line in board.said)
    await until(lambda: all_echoed(board), 5)
    await newer.kill()
    again = await lab.exo(released.host, "--campaign", "0.2", released=True)
    await until(lambda: phase_in(board, "libp2p/v0.0.1"), 25)
    await ready(again)


@pytest.mark.long
async def test_libp2p_exo_of_another_namespace_is_named_and_left_for_a_zenoh_one(lab: Lab) -> None:
    pytest.importorskip("exo_libp2p", reason=NO_CRATE)
    await lab.exo(None, "--namespace", "lab", released=True)
    board = await lab.board(None, "--start-over", "2")

    async def told() -> bool:
        return "does not answer in the namespace v0.0.1" in (await board.view())["sentence"]

    await until(told, 10)
    assert "libp2p/NAME" in (await board.view())["hint"]
    await lab.exo()
    await until(lambda: phase_in(board, "0.3.70"), 20)


async def test_namespace_names_the_older_exo(lab: Lab) -> None:
    pytest.importorskip("exo_libp2p", reason=NO_CRATE)
    await asyncio.gather(lab.exo(None, "--namespace", "lab", released=True), lab.exo())
    board = await lab.board(None, "--namespace", "libp2p/lab")
    await until(lambda: phase_in(board, "libp2p/lab"), 10)
    assert (await board.view())["announcement"] is None


async def test_exo_that_is_held_up_by_its_first_openapi_json_stays_master(lab: Lab) -> None:
    """A connection begins an election, which a silent master loses: there were two of them, for half a minute."""
    pytest.importorskip("exo_libp2p", reason=NO_CRATE)
    words = ("--campaign", "0.6", "--pace", "0.05", "--writing", "1.2")
    exos = await asyncio.gather(*(lab.exo(None, *words, released=True) for _ in range(2)))
    for exo in exos:
        await until(lambda exo=exo: sees_both(exo), 10)  # type: ignore[misc]
    board = await lab.board(None, "--namespace", "libp2p")
    for exo in exos:
        await ready(exo)
    assert (await board.view())["counters"]["sessions"] == 1
    assert not any("two masters" in line.lower() or "silent" in line for line in board.said)
