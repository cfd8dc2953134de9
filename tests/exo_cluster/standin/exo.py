"""The process: `python -m exo_cluster.standin.exo --id ... [--no-worker] [--connect tcp/...]`.

Strict: whatever does not fit the table ends it, with the words that exo uses.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import struct
import sys
import threading
from collections import deque
from datetime import datetime
from typing import Any, NoReturn

import aiohttp
import zenoh
from aiohttp import web

from exo_rkllm.cluster.discovery.interfaces import ADDRESSES, LINKS, Interfaces, ends_dump, open_netlink, request_dump
from exo_rkllm.cluster.discovery.namespace import digest
from exo_rkllm.cluster.discovery.packets import GROUP, Hello, WhatsUp, decode, encode
from exo_rkllm.cluster.wire import exo_2026_06
from exo_rkllm.cluster.wire.checks import Checks, Mismatch
from exo_rkllm.cluster.wire.revisions import Revision
from exo_rkllm.cluster.wire.table import parse
from tests.exo_cluster.standin.api import Api
from tests.exo_cluster.standin.election import Election
from tests.exo_cluster.standin.master import Master, Poisoned, event, new_id
from tests.exo_cluster.standin.router import EventRouter
from tests.exo_cluster.standin.state import Json

SLOTS = 1024  # of exo's channel between zenoh and Python; what finds no slot is dropped
TOPICS = ("local_events", "global_events", "commands", "download_commands", "election_messages")


def revision(added: list[str], dropped: list[str]) -> Revision:
    """HEAD, or what another commit would have made of it: `TYPE.field type` more, `TYPE.field` less."""
    table = exo_2026_06.TABLE
    for change in added:
        name, _, field = change.partition(".")
        table = re.sub(rf"(?m)^((record|tagged) {name}\b.*)$", rf"\1\n  {field}", table, count=1)
    for change in dropped:
        name, _, field = change.partition(".")
        heading, rest = re.split(rf"(?m)(?=^(?:record|tagged) {name}\b)", table, maxsplit=1)
        table = heading + re.sub(rf", {field} [^,\n]+|(?<= ){field} [^,\n]+(?:, )?", "", rest, count=1)
    types = parse(table)
    return Revision("stand-in", (), ("0.3.70",), types, Checks(types, complete=True), Checks(types, complete=False))


def say(sentence: str) -> None:
    """For the story of a test that fails."""
    sys.stderr.write(f"{datetime.now():%H:%M:%S.%f} {sentence}\n")  # in one piece, for zenoh's threads speak too


def die(reason: object) -> NoReturn:
    print(f"EXO terminated due to unhandled exception: {reason}", file=sys.stderr, flush=True)
    os._exit(1)


class Exo:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.id: str = args.id
        say(f"exo {self.id[:8]}")
        self.revision = self._speaks(args)
        self.dropped = 0
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[tuple[str, bytes]] = deque()
        self._lock = threading.Lock()
        self._master: Master | None = None
        self._router: EventRouter | None = None
        seniority = 1_000_000 if args.force_master else 0
        self._election = Election(self.id, self._ballot, self._elected, seniority=seniority, campaign=args.campaign)
        self._api = Api(self.id, self.revision, self._order, args.writing)
        self._origin = new_id()
        self._extra = {change.partition(".")[0]: change.partition(".")[2].split()[0] for change in args.add}
        self._cut = {change.partition(".")[0]: change.partition(".")[2] for change in args.drop}

    # ── wire ──

    def _speaks(self, args: argparse.Namespace) -> Revision:
        return revision(args.add, args.drop)

    def open(self) -> None:
        config = zenoh.Config()
        settings = {
            "id": json.dumps(self.id),
            "mode": '"router"',
            "listen/endpoints": json.dumps([f"tcp/[::]:{self.args.zenoh_port}"]),
            "scouting/multicast/enabled": "false",
            "scouting/gossip/multihop": "true",
            "adminspace/enabled": "true",
            "transport/link/rx/buffer_size": "16777216",
        }
        if self.args.connect:
            settings["connect/endpoints"] = json.dumps(self.args.connect)
            settings["connect/timeout_ms"] = "-1"
            settings["connect/exit_on_failure"] = "false"
            settings["connect/retry"] = "{period_init_ms: 300, period_max_ms: 1000, period_increase_factor: 2}"
        for key, value in settings.items():
            config.insert_json5(key, value)
        self._session = zenoh.open(config)
        self._publishers = {
            topic: self._session.declare_publisher(f"topics/{topic}", congestion_control=zenoh.CongestionControl.BLOCK)
            for topic in TOPICS
        }
        self._kept: list[Any] = [
            self._session.declare_subscriber(f"topics/{topic}", self._arrived, allowed_origin=zenoh.Locality.REMOTE)
            for topic in TOPICS
        ]
        live = self._session.liveliness()
        self._kept.append(live.declare_token(f"live/{self.id}"))
        self._kept.append(live.declare_subscriber("live/*", self._lives, history=True))

    def _arrived(self, sample: zenoh.Sample) -> None:
        with self._lock:
            if len(self._inbox) >= SLOTS:
                self.dropped += 1
                return
            wake = not self._inbox
            self._inbox.append((str(sample.key_expr).rpartition("/")[2], sample.payload.to_bytes()))
        if wake:
            self._loop.call_soon_threadsafe(self._drain)

    def _lives(self, sample: zenoh.Sample) -> None:
        node = str(sample.key_expr).rpartition("/")[2]
        say(f"{node[:8]} {'came' if sample.kind == zenoh.SampleKind.PUT else 'went'}")
        self._loop.call_soon_threadsafe(self._election.moved)

    def _drain(self) -> None:
        with self._lock:
            waiting = list(self._inbox)
            self._inbox.clear()
        self._judge(waiting)

    def _judge(self, waiting: list[tuple[str, bytes]]) -> None:
        for topic, payload in waiting:
            try:
                message = json.loads(payload.decode("utf-8"), parse_constant=_no_constant)
                self.revision.accepted.topics[topic](message)
                self._receive(topic, message)
            except (ValueError, Mismatch, Poisoned, AssertionError) as problem:
                die(f"{topic}: {problem}: {payload[:300]!r}")

    def _send(self, topic: str, payload: bytes) -> None:
        self._publishers[topic].put(payload)

    def _publish(self, topic: str, message: Json) -> None:
        """To everybody, ourselves included."""
        self._send(topic, json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode())
        try:
            self._receive(topic, message)
        except (Poisoned, AssertionError) as problem:
            die(f"{topic}: {problem}")

    def _receive(self, topic: str, message: Json) -> None:
        if topic == "global_events":
            if self._router is not None:
                self._router.receive(message)
        elif topic == "local_events":
            if self._master is not None and message["session"] == self._election.session:
                self._master.receive(message["origin"], message["origin_idx"], message["event"])
        elif topic == "commands":
            self._election.commands_seen += 1
            if self._master is not None:
                self._master.command(message["command"])
        elif topic == "election_messages":
            self._api.pause(message["clock"])
            self._election.ballot(message)

    # ── sessions ──

    def _ballot(self, message: Json) -> None:
        self._publish("election_messages", message)

    def _elected(self, session: Json, clock: int, fresh: bool) -> None:
        first = self._router is None
        say(f"elected {session['master_node_id'][:8]} of {session['election_clock']} at {clock}")
        if fresh or first:
            if self._router is not None:
                self._router.close()
            self._router = EventRouter(session, self._publish, self._api.apply)
        if session["master_node_id"] == self.id:
            if self._master is None or fresh:
                self._master = Master(self._indexed, self._download, patience=self.args.patience)
        else:
            self._master = None
        if fresh and not first:
            self._api.reset(clock)
            self._introduce()
        else:
            self._api.unpause(clock)

    def _indexed(self, index: int, what: Json) -> None:
        session = self._election.session
        message = {"origin_idx": index, "origin": self.id, "session": session, "event": self._evolved(what)}
        self._publish("global_events", message)

    def _evolved(self, what: Json) -> Json:
        """As another commit would write it: a field more or a field less in the types named."""
        if not self._extra and not self._cut:
            return what

        def walk(value: Json) -> Json:
            if isinstance(value, list):
                return [walk(entry) for entry in value]
            if not isinstance(value, dict):
                return value
            walked = {key: walk(entry) for key, entry in value.items()}
            for key, entry in walked.items():
                if key in self._extra and isinstance(entry, dict):
                    walked[key] = {self._extra[key]: "new", **entry}
                if key in self._cut and isinstance(entry, dict):
                    walked[key] = {name: part for name, part in entry.items() if name != self._cut[key]}
            return walked

        return walk(what)

    def _order(self, what: Json) -> None:
        if "download" in what:
            self._download(what["download"])
        else:
            self._publish("commands", {"origin": self._origin, "command": what})

    def _download(self, what: Json) -> None:
        self._publish("download_commands", {"origin": self._origin, "command": what})

    # ── the worker: it tells of itself and probes the others ──

    def _tell(self, info: Json) -> None:
        if self._router is not None:
            self._router.tell(event("NodeGatheredInfo", node_id=self.id, when="2026-01-01 00:00:00+00:00", info=info))

    def _introduce(self) -> None:
        if self.args.no_worker:
            return
        self._tell({"MiscData": {"friendly_name": self.args.name}})
        self._tell({"NodeBackends": {"backends": ["MlxCpu"]}})
        self._interfaces()

    def _interfaces(self) -> None:
        self._tell({"NodeNetworkInterfaces": {"ifaces": list(self._table.addresses())}})

    async def _work(self) -> None:
        free = {"in_bytes": 6 << 30}
        second = 0
        while True:
            memory = {"ram_total": free, "ram_available": free, "swap_total": free, "swap_available": free}
            if not self.args.no_worker:
                self._tell(memory)
                if second % 10 == 1:
                    self._interfaces()
            second += 1
            await asyncio.sleep(self.args.pace)

    async def _plan(self) -> None:
        while True:
            await asyncio.sleep(self.args.plan)
            if self._master is not None:
                self._master.plan()

    # ── discovery ──

    def _discover(self) -> None:
        self._table = Interfaces()
        netlink = open_netlink()
        for kind in (LINKS, ADDRESSES):
            request_dump(netlink, kind)
            netlink.settimeout(2)
            done = False
            while not done:
                data = netlink.recv(1 << 16)
                self._table.feed(data)
                done = ends_dump(data)
        netlink.settimeout(0)
        udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        udp.bind(("::", self.args.discovery_port))
        udp.settimeout(0)
        self._udp = udp
        self._nonce = b""
        self._joined: set[int] = set()
        self._loop.add_reader(udp, self._asked)
        self._loop.add_reader(netlink, lambda: self._table.feed(netlink.recv(1 << 16)))

    async def _hello(self) -> None:
        namespace = digest(self.args.namespace)
        while True:
            self._nonce = os.urandom(8)
            indices = {entry.index for entry in self._table.usable()}
            for index in indices - self._joined:
                group = socket.inet_pton(socket.AF_INET6, GROUP) + struct.pack("@I", index)
                self._udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
            self._joined |= indices
            for index in indices:
                try:
                    self._udp.sendto(encode(Hello(self._nonce, namespace)), (GROUP, self.args.discovery_port, 0, index))
                except OSError:
                    continue
            await asyncio.sleep(1)

    def _asked(self) -> None:
        try:
            data, sender = self._udp.recvfrom(64)
        except OSError:
            return
        packet = decode(data)
        if not isinstance(packet, Hello) or packet.nonce == self._nonce:
            return
        if packet.namespace == digest(self.args.namespace):
            self._udp.sendto(encode(WhatsUp(packet.nonce, self.id, self.args.zenoh_port)), sender)

    # ── life ──

    async def run(self) -> None:
        self._discover()
        self.open()
        self._election.start()
        # Debian 12's aiohttp does not know it, and answers nobody when it is told.
        cancelling: dict[str, Any] = {"handler_cancellation": True} if aiohttp.__version__ >= "3.9" else {}
        runner = web.AppRunner(self._api.app(), access_log=None, **cancelling)
        await runner.setup()
        if not self.args.no_api:
            await web.TCPSite(runner, self.args.api_bind, self.args.api_port).start()
        await asyncio.sleep(0.05)
        self._introduce()
        print("ready", flush=True)
        await asyncio.gather(self._hello(), self._work(), self._plan())


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--id", default=os.urandom(16).hex().lstrip("0"))
    parser.add_argument("--name", default="exo")
    parser.add_argument("--namespace", default="0.3.70")
    parser.add_argument("--zenoh-port", type=int, default=52414)
    parser.add_argument("--discovery-port", type=int, default=52413)
    parser.add_argument("--api-port", type=int, default=52415)
    parser.add_argument("--api-bind", default="0.0.0.0")
    parser.add_argument("--connect", action="append", default=[])
    parser.add_argument("--no-worker", action="store_true")
    parser.add_argument("--no-api", action="store_true")
    parser.add_argument("--force-master", action="store_true")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds until a silent node is dead")
    parser.add_argument("--campaign", type=float, default=3.0, help="seconds of an election")
    parser.add_argument("--pace", type=float, default=1.0, help="seconds between a worker's figures")
    parser.add_argument("--writing", type=float, default=0.0, help="seconds that the first openapi.json takes")
    parser.add_argument("--plan", type=float, default=10.0, help="seconds between plans")
    parser.add_argument("--add", action="append", default=[], help="TYPE.field type: a field of a later commit")
    parser.add_argument("--drop", action="append", default=[], help="TYPE.field: a field that a later commit dropped")
    return parser


async def main() -> None:
    await Exo(arguments().parse_args()).run()


if __name__ == "__main__":
    asyncio.run(main())
