"""The leaf in exo 1.0.71's network alone: messages, ends, and peers that mean ill."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.cluster.session.libp2p_link import LibP2pLink, secret
from exo_rkllm.cluster.session.link import PUBLISHED, Alive, Incoming, Linked, LinkFailed, TopicMessage
from exo_rkllm.cluster.session.zenoh_link import ROOM_IN
from tests.exo_cluster.conftest import NO_CRATE
from tests.exo_cluster.lab import TESTS, until

exo_libp2p: Any = pytest.importorskip("exo_libp2p", reason=NO_CRATE)
TOPICS = (*PUBLISHED, "global_events", "download_commands")
LOCAL = "/ip4/127.0.0.1/tcp/0"


class Peer:
    """A node of exo 1.0.71, as far as the wire goes."""

    def __init__(self, namespace: str = "v0.0.1", topics: tuple[str, ...] = TOPICS) -> None:
        self.node = exo_libp2p.Node(os.urandom(32), secret(namespace), topics, LOCAL)
        self.heard: list[tuple[Any, ...]] = []

    def look(self) -> list[tuple[Any, ...]]:
        self.heard += self.node.receive()[0]
        return self.heard

    async def address(self) -> str:
        async def there() -> bool:
            return any(event[0] == "listening" for event in self.look())

        await until(there, 5, step=0.01)
        return next(f"{event[1]}/p2p/{self.node.id}" for event in self.heard if event[0] == "listening")

    async def hears(self, *parts: object) -> None:
        """An event that begins or ends so comes."""

        async def there() -> bool:
            return any(event[: len(parts)] == parts or event[-len(parts) :] == parts for event in self.look())

        await until(there, 5, step=0.01)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    made = Peer()
    yield made
    made.node.join()


@contextlib.asynccontextmanager
async def linked(*peers: Peer, namespace: str = "v0.0.1") -> AsyncIterator[LibP2pLink]:
    link = LibP2pLink(namespace)
    await link.open([await one.address() for one in peers])
    try:
        yield link
    finally:
        await link.close()


async def receives(link: LibP2pLink, wanted: Incoming, timeout: float = 5.0) -> list[Incoming]:
    """All that comes until then."""
    found: list[Incoming] = []
    while wanted not in found:
        found += await asyncio.wait_for(link.receive(), timeout)
    return found


async def test_link_is_up_when_a_peer_takes_all_that_a_board_publishes(peer: Peer) -> None:
    async with linked(peer) as link:
        assert Alive(peer.node.id, there=True) in await receives(link, Linked(up=True))
        assert await link.addresses() == {peer.node.id: ("127.0.0.1",)}
        assert link.send("commands", b'{"a": 1}')
        await peer.hears("commands", b'{"a": 1}')
        await peer.hears("subscribed", link._node.id, "global_events")  # type: ignore[union-attr]  # it is open
        peer.node.publish("global_events", b"one")
        await receives(link, TopicMessage("global_events", b"one"))
        peer.node.stop()
        found = await receives(link, Linked(up=False))
        assert found[-2:] == [Alive(peer.node.id, there=False), Linked(up=False)]
        assert await link.addresses() == {}


async def test_other_board_is_no_exo_node() -> None:
    board = Peer(topics=("global_events", "election_messages", "download_commands"))
    async with linked(board) as link:
        await board.hears("subscribed", link._node.id, "global_events")  # type: ignore[union-attr]  # it is open
        board.node.publish("global_events", b"one")
        assert await receives(link, TopicMessage("global_events", b"one")) == [TopicMessage("global_events", b"one")]
    board.node.join()


async def test_peer_of_another_namespace_is_not_met(peer: Peer) -> None:
    async with linked(peer, namespace="lab") as link:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(link.receive(), 0.5)
    assert not [event for event in peer.look() if event[0] == "up"]


async def test_closed_link_leaves_no_thread_and_delivers_nothing(peer: Peer) -> None:
    before = len(os.listdir("/proc/self/task"))  # noqa: PTH208  no disk is behind it
    for _ in range(3):
        async with linked(peer) as link:
            await receives(link, Linked(up=True))
        assert link.send("commands", b"{}") is False
        await link.close()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(link.receive(), 0.05)
    assert len(os.listdir("/proc/self/task")) == before  # noqa: PTH208
    assert threading.active_count() == len(threading.enumerate())


async def test_peer_that_starts_later_is_met_as_well(peer: Peer) -> None:
    later = Peer()
    async with linked(peer) as link:
        await receives(link, Linked(up=True))
        peer.node.join()
        await receives(link, Linked(up=False))
        link.meet(await later.address())
        assert Alive(later.node.id, there=True) in await receives(link, Linked(up=True))
        later.node.join()


async def test_missing_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exo_rkllm.cluster.session.libp2p_link.available", lambda _: False)
    with pytest.raises(LinkFailed, match="not installed"):
        await LibP2pLink("v0.0.1").open(["/ip4/127.0.0.1/tcp/1"])


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="invalid multiaddr"):
        exo_libp2p.Node(os.urandom(32), secret("x"), TOPICS, "tcp/127.0.0.1:1")
    node = exo_libp2p.Node(os.urandom(32), secret("x"), ("commands",))
    with pytest.raises(ValueError, match="invalid multiaddr"):
        node.dial("nowhere")
    node.join()
    assert node.publish("commands", b"") is False


def test_thread_that_cannot_start_says_why_and_ends() -> None:
    node = exo_libp2p.Node(os.urandom(32), secret("x"), ("what_exo_does_not_have",))
    over, events = False, []
    while not over:
        more, over = node.receive()
        events += more
    assert events[0][0] == "failed"
    node.join()


def test_process_that_forgets_to_close_still_ends() -> None:
    program = (
        "import os, exo_libp2p; n = exo_libp2p.Node(os.urandom(32), bytes(32), ['commands'], '/ip4/127.0.0.1/tcp/0')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# ── peers that mean ill ──────────────────────────────────────────────────────────────────────────


def memory() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


FLOOD = """
import os, sys, time, exo_libp2p
from exo_rkllm.cluster.session.libp2p_link import secret
node = exo_libp2p.Node(os.urandom(32), secret("v0.0.1"), ["global_events"], "/ip4/127.0.0.1/tcp/0")
while not (events := node.receive()[0]):
    time.sleep(0.01)
print(f"{events[0][1]}/p2p/{node.id}", flush=True)
while not any(event[0] == "subscribed" for event in node.receive()[0]):
    time.sleep(0.01)
while True:
    while node.publish("global_events", os.urandom(int(sys.argv[1]))) and sys.argv[1] == "10":
        pass
    time.sleep(0.002)
"""


@pytest.mark.parametrize(("size", "room"), [pytest.param(1 << 20, 32, marks=pytest.mark.long), (10, ROOM_IN)])
async def test_flood_that_nobody_takes_is_bounded(size: int, room: int) -> None:
    """By 32 MiB and by a number of messages; the rest is dropped."""
    command = (sys.executable, "-c", FLOOD, str(size))
    flood = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=TESTS.parent)
    assert flood.stdout is not None
    before = memory()
    node = exo_libp2p.Node(os.urandom(32), secret("v0.0.1"), ("global_events",))
    node.dial((await flood.stdout.readline()).decode().strip())

    async def over() -> bool:
        return bool(node.dropped >= 50)

    await until(over, 60)
    used = memory() - before
    flood.kill()
    await flood.wait()
    events = [event for event in node.receive()[0] if event[0] == "message"]
    assert room - 10 <= len(events) <= room
    assert used < 120 << 20
    node.join()


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """24 bytes begin the encryption with the shared key; what follows decrypts to noise."""
    chance = random.Random(writer.get_extra_info("peername")[1])
    for _ in range(50):
        writer.write(chance.randbytes(chance.randint(1, 4000)))
        await writer.drain()
    await reader.read(100)


async def abrupt(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(os.urandom(24))


@contextlib.asynccontextmanager
async def hosts(*behaviours: Behaviour) -> AsyncIterator[list[str]]:
    """The addresses of so many that accept a connection and behave so."""

    async def serve(behave: Behaviour) -> asyncio.Server:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                await behave(reader, writer)
            writer.close()

        return await asyncio.start_server(answer, "127.0.0.1")

    servers = [await serve(behave) for behave in behaviours]
    yield [f"/ip4/127.0.0.1/tcp/{server.sockets[0].getsockname()[1]}" for server in servers]
    for server in servers:
        server.close()


async def test_hosts_that_speak_nonsense_break_nothing(peer: Peer) -> None:
    async with hosts(*[silent, garbage, abrupt] * 20) as addresses:
        link = LibP2pLink("v0.0.1")
        await link.open(addresses)
        link.meet(await peer.address())
        await receives(link, Linked(up=True), 20)
        assert link.send("commands", b"still here")
        await peer.hears("commands", b"still here")
        await link.close()


async def test_silent_hosts_keep_no_living_one_waiting(peer: Peer) -> None:
    """One that has not answered yet was dialled again, and the second attempt took another's place."""
    async with hosts(*[silent] * 60) as addresses:
        link = LibP2pLink("v0.0.1")
        await link.open(addresses)
        await asyncio.sleep(0.1)
        link.meet(await peer.address())
        await receives(link, Linked(up=True), 4)
        await link.close()


HOSTILE = TESTS.parent / "build/native/debug/examples/hostile"
KINDS = (
    *("noise", "lengths", "halves", "subscriptions", "topics", "empty_subscriptions", "empty_messages"),
    *("empty_controls", "prunes", "have", "do_not_want"),
)


@pytest.mark.skipif(not HOSTILE.exists(), reason=NO_CRATE)
async def test_nonsense_behind_a_right_handshake_costs_no_memory(peer: Peer) -> None:
    """8 MiB of empty messages alone took 1.3 GB; a message of that size comes through as before."""
    command = (str(HOSTILE), secret("v0.0.1").hex(), *KINDS)
    hostile = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert hostile.stdout is not None
    addresses = [(await hostile.stdout.readline()).decode().split()[1] for _ in KINDS]
    before = peak = memory()
    link = LibP2pLink("v0.0.1")
    await link.open(addresses)
    link.meet(await peer.address())
    await receives(link, Linked(up=True), 20)
    ends = asyncio.get_running_loop().time() + float(os.environ.get("TESTS_SECONDS", "0.5"))
    while asyncio.get_running_loop().time() < ends:
        peak = max(peak, memory())
        await asyncio.sleep(0.01)
    long = os.urandom(7 << 20)
    peer.node.publish("global_events", long)
    await receives(link, TopicMessage("global_events", long), 20)
    await link.close()
    hostile.kill()
    await hostile.wait()
    assert peak - before < 60 << 20


def test_nothing_of_libp2p_is_loaded_with_the_cluster_room() -> None:
    program = "import sys, exo_rkllm.cluster.node; sys.exit('exo_libp2p' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=TESTS.parent, check=True)
