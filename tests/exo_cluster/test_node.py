"""The whole node in this process, against a stand-in on loopback: what needs no namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import zenoh

from exo_rkllm.cluster.discovery import service
from exo_rkllm.cluster.discovery.interfaces import Interfaces
from exo_rkllm.cluster.discovery.namespace import digest
from exo_rkllm.cluster.discovery.packets import Hello, Packet, encode
from exo_rkllm.cluster.discovery.service import Discovery, new_nonce
from exo_rkllm.cluster.discovery.state import AmbiguousClusters, DiscoveryState, Outcome, PacketSource
from exo_rkllm.cluster.node import ClusterNode
from exo_rkllm.cluster.serving import NodeDescription
from exo_rkllm.cluster.session import local_node
from exo_rkllm.cluster.session import zenoh_link as link
from exo_rkllm.cluster.session.link import Alive, Linked, LinkFailed, TopicMessage
from exo_rkllm.cluster.session.view import Phase
from exo_rkllm.cluster.session.zenoh_link import Connection, Inbox, ZenohLink
from exo_rkllm.config import ClusterSettings
from tests.exo_cluster.desk import MODEL, Desk
from tests.exo_cluster.lab import TESTS, counted, until


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@dataclass
class Exo:
    process: asyncio.subprocess.Process
    zenoh: int
    api: int
    discovery: int

    @property
    def endpoint(self) -> str:
        return f"tcp/127.0.0.1:{self.zenoh}"

    async def ask(self, words: str) -> Any:
        body = {"model": f"rkllm/{MODEL.id}", "messages": [{"role": "user", "content": words}]}
        url = f"http://127.0.0.1:{self.api}/v1/chat/completions"
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
            return json.loads(await answer.text() or "{}")

    async def state(self) -> Any:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.api}/state") as answer:
            return await answer.json()

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


async def started(*words: str, ports: tuple[int, int, int] | None = None) -> Exo:
    zenoh, api, discovery = ports or free_ports(3)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exo_cluster.standin.exo", "--zenoh-port", str(zenoh), "--api-port", str(api)),
        *("--discovery-port", str(discovery), "--campaign", "0.2", "--api-bind", "127.0.0.1", *words),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS.parent)))},
    )
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), 15)
    return Exo(process, zenoh, api, discovery)


@pytest.fixture
async def exo() -> AsyncIterator[Exo]:
    made = await started()
    yield made
    await made.end()


def settings(exo: Exo, **more: Any) -> ClusterSettings:
    known = {"endpoints": (exo.endpoint,), "discovery_port": exo.discovery, "api_port": exo.api}
    return ClusterSettings(**{**known, **more})


@contextlib.asynccontextmanager
async def board(
    tmp_path: Path,
    chosen: ClusterSettings,
    desk: Desk | None = None,
    transport: Callable[[], ZenohLink] = ZenohLink,
) -> AsyncIterator[ClusterNode]:
    made = ClusterNode(
        chosen, NodeDescription("opi5"), desk or Desk(), tmp_path, models_folder=tmp_path, zenoh_link=transport
    )
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def in_phase(made: ClusterNode, phase: Phase, timeout: float = 10.0) -> None:
    async def there() -> bool:
        return made.view().phase is phase

    await until(there, timeout)


async def heard(made: ClusterNode) -> None:
    """Exo has borne everything that was said; one that ends before is thought to have died of it."""

    async def echoed() -> bool:
        return made.view().unechoed == 0

    await until(echoed, 10)


async def test_joining_answering_leaving(exo: Exo, tmp_path: Path) -> None:
    desk = Desk()
    async with board(tmp_path, settings(exo), desk) as made:
        await in_phase(made, Phase.SERVING)
        await until(lambda: ready(exo), 5)
        answer = await exo.ask("count 4")
        assert answer["choices"][0]["message"]["content"] == counted(4)
        failed = await exo.ask("fail")
        assert "[opi5 did not answer] rkllm_run failed" in failed["choices"][0]["message"]["content"]
        await desk.change(MODEL.id, "cold")
        view = made.view()
        assert view.endpoints == (exo.endpoint,)
        assert view.counters.tasks == 2
        assert not view.counters.refused
    assert (await exo.state())["instances"] == {}


async def ready(exo: Exo) -> bool:
    return "RunnerReady" in str((await exo.state())["runners"])


async def test_a_launch_from_the_dashboard_loads_the_model(exo: Exo, tmp_path: Path) -> None:
    from dataclasses import replace

    desk = Desk([replace(MODEL, state="cold")])
    async with board(tmp_path, settings(exo, placement="dashboard"), desk) as made:
        await in_phase(made, Phase.SERVING)
        await until(lambda: known(exo), 5)
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{exo.api}/place_instance"
            async with session.post(url, json={"model_id": f"rkllm/{MODEL.id}"}) as answer:
                assert answer.status == 200
        await until(lambda: ready(exo), 5)
        assert desk.loaded == [MODEL.id]
        assert (await exo.ask("count 2"))["choices"][0]["message"]["content"] == counted(2)


async def known(exo: Exo) -> bool:
    return bool((await exo.state())["customModelCards"])


async def test_only_the_models_that_were_named_are_offered(exo: Exo, tmp_path: Path) -> None:
    async with board(tmp_path, settings(exo, models=("other",))) as made:
        await in_phase(made, Phase.SERVING)
        await asyncio.sleep(0.3)
        assert (await exo.state())["customModelCards"] == {}


class Broken(Desk):
    """An engine with a bug, and one that ends without a word."""

    async def generate(self, request: Any, *, client: str) -> Any:
        if "silent" in request.messages[-1].content:
            return
            yield
        raise KeyError("oops")


async def test_every_failure_ends_the_clients_stream(exo: Exo, tmp_path: Path) -> None:
    async with board(tmp_path, settings(exo), Broken()) as made:
        await in_phase(made, Phase.SERVING)
        await until(lambda: ready(exo), 5)
        for words in ("silent", "loud"):
            answer = await asyncio.wait_for(exo.ask(words), 5)
            assert "[opi5 did not answer]" in answer["choices"][0]["message"]["content"]
        assert made.view().tasks == 0


async def test_the_link_comes_back_by_itself(exo: Exo, tmp_path: Path) -> None:
    async with board(tmp_path, settings(exo)) as made:
        await in_phase(made, Phase.SERVING)
        await heard(made)
        await exo.end()
        await in_phase(made, Phase.SEARCHING)
        assert "No exo node answers" in made.view().sentence
        again = await started(ports=(exo.zenoh, exo.api, exo.discovery))
        try:
            await in_phase(made, Phase.SERVING, 15)
        finally:
            await again.end()


async def test_an_exo_that_starts_after_us_is_found(tmp_path: Path) -> None:
    zenoh, api, discovery = free_ports(3)
    chosen = ClusterSettings(endpoints=(f"tcp/127.0.0.1:{zenoh}",), discovery_port=discovery, api_port=api)
    async with board(tmp_path, chosen) as made:
        await asyncio.sleep(0.5)
        late = await started(ports=(zenoh, api, discovery))
        try:
            await in_phase(made, Phase.SERVING, 15)
        finally:
            await late.end()


def wakes_of_zenoh() -> int:
    """How often zenoh's threads in this process have waited for something."""
    found = 0
    for thread in Path("/proc/self/task").iterdir():
        if (thread / "comm").read_text().startswith(("net-", "app-", "acc-")):
            status = (thread / "status").read_text()
            found += int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
    return found


async def test_idle_link_does_not_tick(exo: Exo, tmp_path: Path) -> None:
    async with board(tmp_path, settings(exo)) as made:
        await in_phase(made, Phase.SERVING)
        await heard(made)
        before = wakes_of_zenoh()
        await asyncio.sleep(0.8)
        assert wakes_of_zenoh() - before < 8


async def test_idle_board_says_one_small_message_in_five_seconds(
    exo: Exo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As somebody on the wire counts; by default five seconds are a fifth of one."""
    pace, seconds = (local_node.SIGN_OF_LIFE, 60.0) if os.environ.get("TESTS_LONG") else (0.2, 1.0)
    monkeypatch.setattr(local_node, "SIGN_OF_LIFE", pace)
    async with board(tmp_path, settings(exo)) as made:
        await in_phase(made, Phase.SERVING)
        await heard(made)
        (me,) = (node.id.encode() for node in made.view().nodes if node.me)
        config = zenoh.Config()
        config.insert_json5("mode", '"client"')
        config.insert_json5("connect/endpoints", json.dumps([exo.endpoint]))
        ours: list[bytes] = []

        def count(sample: zenoh.Sample) -> None:
            payload = sample.payload.to_bytes()
            if me in payload or "local_events" not in str(sample.key_expr):  # exo tells of itself there
                ours.append(payload)

        with await asyncio.to_thread(zenoh.open, config) as listener:
            for topic in ("local_events", "commands", "election_messages"):
                listener.declare_subscriber(f"topics/{topic}", count)
            await asyncio.sleep(seconds)
    print(f"{len(ours)} messages in {seconds} s, the largest has {max(map(len, ours))} bytes")
    assert seconds / pace / 2 <= len(ours) <= seconds / pace + 1
    assert max(map(len, ours)) < 1000


async def test_staying_out_and_coming_in(exo: Exo, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "stay-out").write_text("It died of us.\n")
    async with board(tmp_path, settings(exo)) as made:
        await asyncio.sleep(1.5)
        assert made.view().phase is Phase.OUT
        assert "It died of us." in caplog.text
        made.join()
        await in_phase(made, Phase.SERVING)
    assert not (tmp_path / "stay-out").exists()


async def test_view_says_that_no_exo_node_is_heard(tmp_path: Path) -> None:
    (discovery,) = free_ports(1)
    async with board(tmp_path, ClusterSettings(discovery_port=discovery)) as made:
        await asyncio.sleep(0.2)
        view = made.view()
        assert (view.phase, view.sentence) == (Phase.SEARCHING, "No exo node is heard on the local network.")


async def test_hellos_of_a_cluster_are_read_together_while_none_is_searched_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "REST", 0.5)
    (port,) = free_ports(1)
    state = DiscoveryState("c0ffee", "0.3.70", new_nonce, ("0.3.70",), port)
    turns: list[float] = []

    def hear(_packet: Packet, _source: PacketSource, now: float) -> list[Outcome]:
        turns.append(now)
        return []

    monkeypatch.setattr(state, "hear", hear)
    made = Discovery(
        state,
        Interfaces(),
        port,
        configured=frozenset({"::1"}),
        on_peer=lambda _: None,
        on_ambiguity=lambda _: None,
        on_interfaces=lambda: None,
    )

    async def heard(number: int) -> bool:
        return len(turns) >= number  # the search's own Hello comes back, too

    made.start()
    hello = encode(Hello(b"12345678", digest("0.3.70")))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as exo:
        exo.sendto(hello, ("::1", port))
        await until(lambda: heard(1), 5)
        for _ in range(3):
            exo.sendto(hello, ("::1", port))
            await asyncio.sleep(0)
        assert len(turns) == 1, "the kernel keeps them"
        monkeypatch.setattr(service, "REST", 60.0)
        await until(lambda: heard(4), 5)
        assert turns[1] - turns[0] > 0.4
        exo.sendto(hello, ("::1", port))
        made.search(on=True)  # hears at once
        await until(lambda: heard(5), 5)
    made.close()


async def test_a_discovery_port_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as taken:
        taken.bind(("::", 0))
        port = taken.getsockname()[1]
        async with board(tmp_path, ClusterSettings(discovery_port=port)) as made:
            view = made.view()
            assert f"UDP port {port}" in view.sentence
            assert "ss -lnup" in view.hint


async def test_several_clusters_are_left_alone(exo: Exo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with board(tmp_path, settings(exo)) as made:
        await in_phase(made, Phase.SERVING)
        made.search._on_ambiguity(AmbiguousClusters(("0.3.70", "home")))
        view = made.view()
        assert view.phase is Phase.SEARCHING
        assert "0.3.70, home" in view.sentence
        assert "namespace" in view.hint


class HeldLink(ZenohLink):
    """Connects once it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.opening, self.released, self.opened = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def open(self, endpoints: Sequence[str]) -> None:
        self.opening.set()
        await self.released.wait()
        await super().open(endpoints)
        self.opened.set()


async def test_link_that_opens_while_a_second_cluster_is_heard_is_closed(exo: Exo, tmp_path: Path) -> None:
    """It stayed open, and the board followed a cluster that nobody had chosen."""
    held = HeldLink()
    async with board(tmp_path, settings(exo), transport=lambda: held) as made:
        await asyncio.wait_for(held.opening.wait(), 5)
        made.search._on_ambiguity(AmbiguousClusters(("0.3.70", "home")))
        held.released.set()
        await asyncio.wait_for(held.opened.wait(), 5)

        async def closed() -> bool:
            return held._connection is None

        await until(closed, 5)
        view = made.view()
        assert view.phase is Phase.SEARCHING
        assert "0.3.70, home" in view.sentence
        assert view.counters.events_out == view.counters.commands_out == 0


async def test_an_interface_that_appears_is_asked_on(tmp_path: Path) -> None:
    """Discovery on this machine's own interfaces, whatever they are: the kernel's lists are read to their end."""
    (port,) = free_ports(1)
    async with board(tmp_path, ClusterSettings(discovery_port=port)) as made:

        async def listed() -> bool:
            return made.search.discovery._listing == 18 and bool(made.search.interfaces._all)

        await until(listed, 5)
        assert any(entry.loopback for entry in made.search.interfaces._all.values())
        assert isinstance(made.search.discovery, Discovery)


async def test_a_dead_endpoint_in_front_does_not_hide_a_living_one(exo: Exo, tmp_path: Path) -> None:
    (dead,) = free_ports(1)
    async with board(tmp_path, settings(exo, endpoints=(f"tcp/127.0.0.1:{dead}", exo.endpoint))) as made:
        await in_phase(made, Phase.SERVING)


# ── the link alone ──


async def test_link_to_nobody_fails_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CONNECT_MS", 200)
    made = ZenohLink()
    (port,) = free_ports(1)
    with pytest.raises(LinkFailed) as failed:
        await made.open([f"tcp/127.0.0.1:{port}"])
    assert f"127.0.0.1:{port}" in failed.value.sentence
    assert ".rs" not in failed.value.sentence
    assert made.send("commands", b"{}") is False
    assert await made.addresses() == {}
    made.declare("aa")
    await made.close()


async def test_link_carries_messages_both_ways(exo: Exo) -> None:
    first, second = ZenohLink(), ZenohLink()
    await first.open([exo.endpoint])
    await second.open([exo.endpoint])
    found: list[Any] = []

    async def heard(kind: type, number: int = 1) -> bool:
        with contextlib.suppress(asyncio.TimeoutError):
            found.extend(await asyncio.wait_for(second.receive(), 0.5))
        return sum(isinstance(one, kind) for one in found) >= number

    await until(lambda: heard(Linked), 5)
    await until(lambda: heard(TopicMessage), 5)
    assert Linked(True) in found
    first.declare("c0ffee")

    async def declared() -> bool:
        await heard(Alive)
        return Alive("c0ffee", there=True) in found

    await until(declared, 5)
    ballot = {"clock": 1, "seniority": -1, "proposed_session": {"master_node_id": "x", "election_clock": 1}}
    assert first.send("election_messages", json.dumps({**ballot, "commands_seen": 0}).encode())

    async def carried() -> bool:
        await heard(TopicMessage)
        return any(isinstance(one, TopicMessage) and b'"master_node_id": "x"' in one.payload for one in found)

    await until(carried, 5)
    await first.close()

    async def withdrawn() -> bool:
        await heard(Alive)
        return Alive("c0ffee", there=False) in found

    await until(withdrawn, 5)
    assert second.dropped == 0
    await second.close()


ONCE = """
import asyncio, sys
from exo_rkllm.cluster.session.zenoh_link import ZenohLink
async def main():
    link = ZenohLink()
    await link.open(sys.argv[1:])
    await link.addresses()
    await link.close()
asyncio.run(main())
"""


async def test_a_process_ends_well_after_its_link(exo: Exo) -> None:
    """A thread that comes back from zenoh while the interpreter ends aborts it; on a busy machine one in ten did."""
    command = (sys.executable, "-c", ONCE, exo.endpoint)
    ends = [await asyncio.create_subprocess_exec(*command, cwd=TESTS.parent) for _ in range(40)]
    assert [await end.wait() for end in ends] == [0] * 40


async def test_closed_link_delivers_nothing_that_it_had_received(exo: Exo) -> None:
    """News of a link that was closed brought it up again for the node."""
    made = ZenohLink()
    await made.open([exo.endpoint])

    async def received() -> bool:
        return Linked(True) in [incoming for incoming, _ in made._inbox._waiting]

    await until(received, 5)
    await made.close()
    later = Alive("c0ffee", there=True)
    made._inbox.put(later, threading.Event())
    assert await asyncio.wait_for(made.receive(), 5) == [later]


async def test_an_inbox_that_is_not_emptied_drops_messages_and_keeps_news_of_the_link() -> None:
    inbox, over = Inbox(), threading.Event()
    for _ in range(link.ROOM_IN + 10):
        inbox.put(TopicMessage("t", b""), over)
    inbox.put(Linked(False), over)
    assert inbox.dropped == 10
    taken = await inbox.take()
    assert len(taken) == link.ROOM_IN + 1
    assert taken[-1] == Linked(False)


async def test_a_connection_with_a_full_queue_refuses_and_still_ends(exo: Exo) -> None:
    connection = Connection([exo.endpoint], Inbox())
    await connection.opened
    hold = asyncio.Event()
    loop = asyncio.get_running_loop()

    def block(_: object) -> None:
        asyncio.run_coroutine_threadsafe(hold.wait(), loop).result()

    connection._do(block)
    await asyncio.sleep(0.1)
    sent = [connection.publish("commands", b"{}") for _ in range(link.ROOM_OUT + 5)]
    assert sent.count(False) == 5
    assert await connection.ask("@/*/router", 0.1) == []
    connection.end()
    hold.set()
    await asyncio.wait_for(connection.closed, 5)
