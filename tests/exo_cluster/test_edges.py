"""The parts around the decisions: who is heard, interfaces, HTTP, ids on disk, chunks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from exo_rkllm.backends.base import Finish, Timings, Usage
from exo_rkllm.cluster.discovery import interfaces
from exo_rkllm.cluster.discovery.interfaces import Interfaces
from exo_rkllm.cluster.discovery.namespace import digest
from exo_rkllm.cluster.discovery.packets import Hello, WhatsUp
from exo_rkllm.cluster.discovery.state import (
    DISCOVERY_WINDOW,
    FORGET,
    NODES,
    VALID,
    AmbiguousClusters,
    DiscoveredPeer,
    DiscoveryState,
    Outcome,
    PacketSource,
    SendHello,
)
from exo_rkllm.cluster.effects import QueryNodesEffect
from exo_rkllm.cluster.identity import NodeIdentity
from exo_rkllm.cluster.serving import Servable
from exo_rkllm.cluster.session.node_query import Inspection, query_nodes, urls
from exo_rkllm.cluster.session.zenoh_link import addresses_in
from exo_rkllm.cluster.wire import chunks, clean
from exo_rkllm.cluster.wire.revisions import supported
from exo_rkllm.cluster.worker import offers

HERE, THERE = PacketSource("fe80::1", 2), PacketSource("fe80::2", 2)
OURS, OTHER = digest("0.3.70"), digest("0.3.71")


# ── who is heard ──


def hearing(asked: str = "0.3.70", guesses: tuple[str, ...] = ("0.3.70",)) -> DiscoveryState:
    numbers = iter(range(1, 10_000))
    return DiscoveryState("me", asked, lambda: next(numbers).to_bytes(8, "big"), guesses)


def nonce(ear: DiscoveryState, now: float, namespace: bytes = OURS) -> bytes:
    return next(ask.packet.nonce for ask in ear.hellos(now) if ask.packet.namespace == namespace)


def test_answering_node_is_discovered_once() -> None:
    ear = hearing()
    asked = nonce(ear, 0.0)
    found = ear.hear(WhatsUp(asked, "aa", 52414), HERE, 0.01)
    assert found == [DiscoveredPeer("aa", HERE, 52414)]
    assert ear.hear(WhatsUp(asked, "aa", 52414), HERE, 0.02) == []
    assert ear.endpoints() == ("tcp/[fe80::1%2]:52414",)
    assert ear.is_settled(0.0)
    assert ear.namespace == "0.3.70"


def heard(ear: DiscoveryState, namespace: bytes, source: PacketSource, now: float, node: str = "ee") -> list[Outcome]:
    """An exo node says Hello and answers ours."""
    (ask,) = ear.hear(Hello(b"?" * 8, namespace), source, now)
    assert isinstance(ask, SendHello)
    assert ask.source == source
    assert ask.packet.namespace == namespace
    return ear.hear(WhatsUp(ask.packet.nonce, node, 52414), source, now)


def test_stale_and_unasked_answers_are_dropped() -> None:
    ear = hearing()
    old = nonce(ear, 0.0)
    new = nonce(ear, 1.0)
    assert ear.hear(WhatsUp(old, "aa", 52414), HERE, VALID) == []
    assert ear.hear(WhatsUp(b"?" * 8, "aa", 52414), HERE, 1.1) == []
    assert ear.hear(WhatsUp(new, "me", 52414), HERE, 1.1) == []
    assert ear.hear(Hello(new, OURS), HERE, 1.1) == []


def test_answer_to_the_hello_before_counts() -> None:
    ear = hearing()
    old = nonce(ear, 0.0)
    ear.hellos(1.0)
    assert ear.hear(WhatsUp(old, "aa", 52414), HERE, 1.1) == [DiscoveredPeer("aa", HERE, 52414)]


def test_own_looped_back_hello_makes_no_cluster() -> None:
    """An emulated board heard itself after it had asked anew, and joined the first cluster of its own guesses."""
    ear = hearing("auto")
    (first,) = ear.hellos(0.0)
    ear.hellos(0.1)
    assert ear.hear(first.packet, HERE, 3.0) == []
    assert ear.namespace == ""
    assert not ear.is_settled(DISCOVERY_WINDOW)
    assert ear.other_clusters(3.0) == ()


def test_searching_board_makes_no_cluster() -> None:
    """Two boards alone on a network told each other their guess, and both joined what nobody served."""
    first, second = boards = hearing("auto", ("0.3.70",)), hearing("auto", ("0.3.71",))
    for at in range(60):
        for ear, its, other, others in ((first, HERE, second, THERE), (second, THERE, first, HERE)):
            for question in ear.hellos(float(at)):
                for asked in other.hear(question.packet, its, float(at)):
                    assert isinstance(asked, SendHello)
                    ear.hear(asked.packet, others, float(at))
    for ear in boards:
        assert ear.namespace == ""
        assert not ear.is_settled(60.0)
        assert ear.other_clusters(60.0) == ()
    assert heard(boards[0], OTHER, PacketSource("fe80::e", 2), 60.0) == [
        DiscoveredPeer("ee", PacketSource("fe80::e", 2), 52414)
    ]
    assert boards[0].is_settled(60.0)


def test_a_board_that_asks_for_one_cluster_does_not_keep_another_from_the_real_one() -> None:
    ear = hearing("auto")
    ear.hellos(0.0)
    assert len(ear.hear(Hello(b"b" * 8, OURS), THERE, 0.1)) == 1
    assert len(heard(ear, OTHER, HERE, 0.5)) == 1
    assert ear.is_settled(DISCOVERY_WINDOW)
    assert ear.namespace == "0.3.71"


def test_silent_speaker_is_asked_again_at_intervals() -> None:
    ear = hearing()
    asked = [second for second in range(10) if ear.hear(Hello(b"n" * 8, OTHER), HERE, float(second))]
    assert asked == [0, 3, 6, 9]


def test_a_node_that_starts_later_is_asked_once() -> None:
    ear = hearing()
    (ask,) = ear.hear(Hello(b"n" * 8, OURS), THERE, 5.0)
    assert isinstance(ask, SendHello)
    assert ask.source == THERE
    assert ear.hear(Hello(b"m" * 8, OURS), THERE, 6.0) == []
    assert ear.hear(WhatsUp(ask.packet.nonce, "bb", 52414), THERE, 6.1) == [DiscoveredPeer("bb", THERE, 52414)]
    ear.forget_answers()
    assert len(ear.hear(Hello(b"o" * 8, OURS), THERE, 7.0)) == 1


def test_restarted_node_replaces_its_former_entry() -> None:
    ear = hearing()
    ear.hear(WhatsUp(nonce(ear, 0.0), "aa", 52414), HERE, 0.0)
    ear.hear(WhatsUp(nonce(ear, 1.0), "bb", 52414), HERE, 1.0)
    ear.hear(WhatsUp(nonce(ear, 2.0), "cc", 52414), THERE, 2.0)
    assert ear.endpoints() == ("tcp/[fe80::2%2]:52414", "tcp/[fe80::1%2]:52414")


def test_latest_speaker_is_the_first_endpoint() -> None:
    """A dead node that stood in front of a living one was tried again and again for half a minute."""
    ear = hearing()
    ear.hear(WhatsUp(nonce(ear, 0.0), "aa", 52414), HERE, 0.0)
    ear.hear(WhatsUp(nonce(ear, 0.0), "cc", 52414), THERE, 0.1)
    ear.hear(Hello(b"n" * 8, OURS), HERE, 0.2)
    assert ear.endpoints() == ("tcp/[fe80::1%2]:52414", "tcp/[fe80::2%2]:52414")
    ear.hear(Hello(b"o" * 8, OURS), THERE, 1.0)
    assert ear.endpoints() == ("tcp/[fe80::2%2]:52414", "tcp/[fe80::1%2]:52414")


def test_other_namespace_is_listed_as_other_cluster() -> None:
    ear = hearing()
    assert heard(ear, OTHER, HERE, 0.0) == []
    (stranger,) = ear.other_clusters(1.0)
    assert (stranger.namespace, str(stranger.source)) == ("0.3.71", "fe80::1%2")
    assert ear.hear(Hello(b"n" * 8, OTHER), HERE, FORGET - 1) == [], "it is there still"
    assert len(ear.other_clusters(FORGET + 1)) == 1
    assert ear.other_clusters(2 * FORGET) == ()
    heard(ear, digest("home"), HERE, 70.0)
    assert ear.other_clusters(70.0)[0].namespace == digest("home").hex()


def test_auto_takes_the_one_that_is_heard() -> None:
    ear = hearing("auto", ())
    assert ear.hellos(0.0) == []
    assert not ear.is_settled(5.0)
    assert len(heard(ear, OTHER, HERE, 0.6)) == 1
    assert not ear.is_settled(0.6)
    assert ear.patience(0.6) == pytest.approx(DISCOVERY_WINDOW - 0.6)
    assert ear.is_settled(DISCOVERY_WINDOW)
    assert ear.namespace == "0.3.71"
    assert heard(ear, OURS, THERE, 9.0) == []
    assert ear.is_settled(9.0)


def test_auto_guesses_so_that_a_known_cluster_answers_at_once() -> None:
    ear = hearing("auto")
    assert len(ear.hear(WhatsUp(nonce(ear, 0.0), "aa", 52414), HERE, 0.01)) == 1
    assert ear.namespace == "0.3.70"


def test_auto_joins_none_of_two_until_one_is_left() -> None:
    ear = hearing("auto")
    asked = nonce(ear, 0.0)
    assert len(heard(ear, OTHER, HERE, 0.2)) == 1
    assert ear.hear(WhatsUp(asked, "aa", 52414), THERE, 0.3) == [AmbiguousClusters(("0.3.70", "0.3.71"))]
    assert not ear.is_settled(5.0)
    assert ear.namespace == ""
    assert ear.hellos(5.0) == []
    assert ear.hear(Hello(b"p" * 8, OURS), THERE, 6.0) == []
    assert ear.hear(Hello(b"q" * 8, OTHER), HERE, 29.0) == []
    assert ear.is_settled(40.0) is False
    (ask,) = ear.hellos(40.0)
    assert ask.packet.namespace == OTHER
    assert ear.is_settled(40.0)


def test_a_flood_of_names_and_nodes_is_bounded() -> None:
    ear = hearing()
    for number in range(500):
        source = PacketSource(f"fe80::{number:x}", 2)
        ear.hear(Hello(number.to_bytes(8, "little"), number.to_bytes(8, "big")), source, 0.0)
        for outcome in ear.hear(Hello(number.to_bytes(8, "little"), OURS), source, 0.0):
            assert isinstance(outcome, SendHello)
            ear.hear(WhatsUp(outcome.packet.nonce, f"{number:x}", 52414), source, 0.0)
        ear.hear(WhatsUp(nonce(ear, 0.0), f"{number + 1:x}", 52414), source, 0.0)
    assert len(ear.other_clusters(0.0)) <= NODES
    assert len(ear.endpoints()) <= NODES
    assert heard(ear, OTHER, PacketSource("fe80::f"), FORGET) == [], "those that are silent make room"
    assert [stranger.namespace for stranger in ear.other_clusters(FORGET)] == ["0.3.71"]


# ── interfaces ──


def netlink(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def link(index: int, name: str, flags: int = 0x41, kind: int = 16) -> bytes:
    return netlink(kind, struct.pack("=BxHiII", 0, 1, index, flags, 0) + attribute(3, name.encode() + b"\0"))


def address(index: int, text: str, kind: int = 20, flags: int = 0) -> bytes:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    raw = socket.inet_pton(family, text)
    return netlink(kind, struct.pack("=BBBBi", family, 64, flags, 0, index) + attribute(1, raw))


def test_interfaces_come_and_go_as_the_kernel_says() -> None:
    table = Interfaces()
    assert table.feed(link(2, "eth0") + address(2, "fe80::1") + address(2, "10.0.0.2"))
    assert [entry.name for entry in table.usable()] == ["eth0"]
    assert [(entry["ip_address"], entry["interface_type"]) for entry in table.addresses()] == [("10.0.0.2", "ethernet")]
    assert not table.feed(link(2, "eth0"))
    table.feed(link(1, "lo", 0x49) + address(1, "::1") + link(3, "wlan0", 0x1) + address(3, "fe80::3"))
    assert [entry.name for entry in table.usable()] == ["eth0"], "loopback, and a radio without a carrier"
    table.feed(link(3, "wlan0"))
    assert [(entry.name, entry.kind) for entry in table.usable()] == [("eth0", "ethernet"), ("wlan0", "wifi")]
    table.feed(address(2, "fe80::1", 21))
    assert [entry.name for entry in table.usable()] == ["wlan0"]
    table.feed(link(3, "wlan0", kind=17))
    assert table.usable() == ()


def test_tentative_address_is_not_usable() -> None:
    table = Interfaces()
    table.feed(link(2, "br0") + address(2, "fe80::1", flags=0x40))
    assert table.usable() == ()
    table.feed(address(2, "fe80::1"))
    assert [entry.kind for entry in table.usable()] == ["unknown"]


def test_configured_interface_names_limit_the_table() -> None:
    table = Interfaces(["eth1"])
    table.feed(link(2, "eth0") + address(2, "fe80::1") + link(3, "eth1") + address(3, "fe80::2"))
    assert [entry.name for entry in table.usable()] == ["eth1"]


@pytest.mark.parametrize("data", [b"", b"\0" * 40, netlink(16, b"\0"), netlink(20, b"\0" * 8), link(2, "eth0")[:30]])
def test_truncated_netlink_messages_raise_nothing(data: bytes) -> None:
    table = Interfaces()
    table.feed(data)
    assert table.usable() == ()
    assert not interfaces.ends_dump(data)


def test_interface_keeps_its_name_when_a_message_omits_it() -> None:
    table = Interfaces()
    table.feed(link(2, "eth0") + address(2, "fe80::1"))
    table.feed(netlink(16, struct.pack("=BxHiII", 0, 1, 2, 0x41, 0) + struct.pack("=HH", 2, 3)))
    assert [entry.name for entry in table.usable()] == ["eth0"]


# ── HTTP ──


async def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


LATE = "late"


@contextlib.asynccontextmanager
async def exo(paths: dict[str, Any]) -> AsyncIterator[int]:
    async def handle(request: web.Request) -> web.Response:
        if request.path not in paths:
            raise web.HTTPNotFound
        found = paths[request.path]
        if found is LATE:
            await asyncio.sleep(0.5)
        return web.Response(text=found) if isinstance(found, str) else web.json_response(found)

    app = web.Application()
    app.router.add_get("/{tail:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    port = await free_port()
    await web.TCPSite(runner, "127.0.0.9", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


async def told(paths: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *, openapi: bool = True) -> Any:
    # loopback would be this board itself, and is all that a test has
    monkeypatch.setattr(
        "exo_rkllm.cluster.session.node_query.urls", lambda addresses, port: [f"http://{a}:{port}" for a in addresses]
    )
    async with exo(paths) as port:
        return await query_nodes(
            QueryNodesEffect(("dead", "aa"), openapi), {"dead": ("127.0.0.8",), "aa": ("127.0.0.7", "127.0.0.9")}, port
        )


async def test_query_returns_state_and_openapi(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {"/node_id": '"aa"', "/state": {"a": 1}, "/openapi.json": {"b": 2}}
    found = await told(paths, monkeypatch)
    assert (found.node_id, found.state, found.openapi) == ("aa", {"a": 1}, {"b": 2})
    assert (await told(paths, monkeypatch, openapi=False)).openapi is None


async def test_query_takes_a_state_that_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """exo's openapi.json does, so that it was not compared, and the state of a busy cluster."""
    paths = {"/node_id": '"aa"', "/state": {"a": "x" * 2_000_000}, "/openapi.json": {"b": "y" * 300_000}}
    found = await told(paths, monkeypatch)
    assert (len(found.state["a"]), len(found.openapi["b"])) == (2_000_000, 300_000)


async def test_query_gives_up_an_answer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exo_rkllm.cluster.session.node_query.LARGEST", 1000)
    paths = {"/node_id": '"aa"', "/state": {"a": "x" * 2000}, "/openapi.json": {}}
    assert await told(paths, monkeypatch) is None


@pytest.mark.parametrize(("endpoint", "document"), [("aa", {"b": 2}), ("bb", None)])
async def test_inspection_asks_the_node_of_the_endpoint(
    endpoint: str, document: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with exo({"/node_id": '"aa"', "/state": {}, "/openapi.json": {"b": 2}}) as port:
        for ours in (f"/ip4/127.0.0.9/tcp/50000/p2p/{endpoint}", "/ip4/127.0.0.8/tcp/50000/p2p/aa"):
            inspection = Inspection(port)
            await inspection.end((ours, f"/ip4/127.0.0.9/tcp/50000/p2p/{endpoint}"))
            assert inspection.document == document
            inspection.forget()
            assert inspection.document is None


async def test_openapi_json_that_is_late_costs_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exo_rkllm.cluster.session.node_query.TIMEOUT", 0.1)
    paths = {"/node_id": '"aa"', "/state": {"a": 1}, "/openapi.json": LATE}
    found = await told(paths, monkeypatch)
    assert (found.state, found.openapi) == ({"a": 1}, None)


@pytest.mark.parametrize(
    "paths",
    [
        {"/node_id": '"somebody else"', "/state": {}, "/openapi.json": {}},
        {"/node_id": '"aa"', "/state": {}},
        {"/node_id": '"aa"', "/state": [], "/openapi.json": {}},
        {"/node_id": '"aa"', "/state": "{", "/openapi.json": {}},
        {},
    ],
)
async def test_query_ignores_whoever_is_no_exo_node(paths: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert await told(paths, monkeypatch) is None


def test_query_urls_prefer_ipv4_and_omit_loopback() -> None:
    assert urls(("fd00::2", "10.0.0.1", "127.0.0.1", "::1"), 5) == ["http://10.0.0.1:5", "http://[fd00::2]:5"]


def test_addresses_are_read_from_zenohs_admin_space() -> None:
    told = b'{"zid":"aa","locators":["tcp/[fd00::2]:52414","tcp/10.0.0.1:52414","tcp/[fe80::1%eth0]:1","quic/x:1"]}'
    assert addresses_in(told) == {"aa": ("fd00::2", "10.0.0.1")}
    for nonsense in (b"", b"{}", b"[]", b'{"zid":"aa","locators":5}', b'{"zid":"aa","locators":["tcp/1.2:5"]}'):
        assert addresses_in(nonsense) == {}


# ── ids on disk ──


def test_the_node_id_survives_restarts(tmp_path: Path) -> None:
    made = NodeIdentity(tmp_path / "cluster").node_id()
    assert NodeIdentity(tmp_path / "cluster").node_id() == made
    assert made[0] != "0"


@pytest.mark.parametrize("content", [b"", b"0abc", b"XYZ", b"\xff\xfe", b"a" * 40])
def test_a_broken_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "node-id").write_bytes(content)
    made = NodeIdentity(tmp_path).node_id()
    assert NodeIdentity(tmp_path).node_id() == made


def test_unwritable_folder_costs_only_the_id(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    identity = NodeIdentity(tmp_path / "file" / "cluster")
    assert identity.node_id()
    with pytest.raises(OSError):
        identity.keep_out("no matter")
    assert identity.stay_out() == ""


def test_stay_out_reason_survives_restarts(tmp_path: Path) -> None:
    identity = NodeIdentity(tmp_path / "new")
    assert identity.stay_out() == ""
    identity.keep_out("It died of us.")
    assert NodeIdentity(tmp_path / "new").stay_out() == "It died of us."
    identity.keep_out("")
    identity.keep_out("")
    assert identity.stay_out() == ""


# ── chunks, cards ──


def test_tool_calls_in_whatever_form_they_were_written() -> None:
    calls = chunks.tool_calls(
        '{"id": "1", "name": "a", "arguments": "{}"} [{"function": {"name": "b", "arguments": {"x": "ü"}}}]'
        ',{"name": "c", "parameters": {}}'
    )
    assert [(call["name"], call["arguments"]) for call in calls] == [("a", "{}"), ("b", '{"x": "ü"}'), ("c", "{}")]
    assert calls[0]["id"] == "1"
    assert calls[1]["id"]
    for broken in ("{", "[1]", '{"arguments": {}}', "call f()"):
        assert chunks.tool_calls(broken) == []


@pytest.mark.parametrize(
    ("finish", "calls", "kind", "reason"),
    [
        (Finish("stop"), "", "TokenChunk", "stop"),
        (Finish("length"), "", "TokenChunk", "length"),
        (Finish("tool_calls"), '{"name": "f"}', "ToolCallChunk", "tool_calls"),
        (Finish("tool_calls"), "I would call f", "TokenChunk", "stop"),
        (Finish("abort"), "", "ErrorChunk", "error"),
    ],
)
def test_last_chunk_matches_the_finish_reason(finish: Finish, calls: str, kind: str, reason: str) -> None:
    chunk = chunks.last("m", finish, calls=calls, thinking=0, memory=0)
    complete = supported()[0].table.shape("Chunk", chunk)
    assert complete[kind]["finish_reason"] == reason


def test_unknown_timings_give_zero_rates() -> None:
    found = chunks.stats(Finish("stop", Usage(10, 10, 5)), -1)
    assert (found["prompt_tps"], found["generation_tps"], found["prefix_cache_hit"]) == (0.0, 0.0, "exact")
    assert chunks.stats(Finish("stop", Usage(10, 0, 5), Timings(prefill=5e-324)), 0)["prompt_tps"] == 0.0


def test_clean_makes_values_fit_for_the_wire() -> None:
    assert clean.text("a\ud800b") == "a?b"
    assert clean.whole(-5) == 0
    assert clean.whole(2**80) == 2**53
    assert clean.number(float("inf")) is None


def test_model_ids_stay_apart_from_those_of_hugging_face() -> None:
    assert offers.model_id("qwen3:1.7b") == "rkllm/qwen3:1.7b"
    assert offers.model_id("rkllm/x") == "rkllm/x"
    assert offers.model_id("org/model") == "rkllm/org-model"
    assert offers.card(Servable("x", thinking=True, images=True))["capabilities"] == [
        "text",
        "thinking",
        "thinking_toggle",
        "vision",
    ]
