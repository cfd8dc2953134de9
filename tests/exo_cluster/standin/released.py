"""exo 1.0.71 as a process: `python -m tests.exo_cluster.standin.released [...]`, over libp2p through our own crate."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import struct
from typing import Any

import exo_libp2p

from exo_rkllm.cluster.session.libp2p_link import secret
from exo_rkllm.cluster.wire.revisions import Revision, supported
from tests.exo_cluster.standin import exo
from tests.exo_cluster.standin.libp2p import GROUP, NODE, PORT, SERVICE, answer, open_port
from tests.exo_cluster.standin.state import Json

TTL = 2500
_ENDPOINT = re.compile(rb"/ip4/[0-9.]+/tcp/[0-9]+/p2p/[0-9A-Za-z]{40,64}")


class ReleasedExo(exo.Exo):
    """Elections are held for each connection, of a board as well. It tells nothing that came later."""

    def __init__(self, args: argparse.Namespace) -> None:
        network = "v0.0.1" if args.namespace == "0.3.70" else args.namespace
        self._node = exo_libp2p.Node(os.urandom(32), secret(network), exo.TOPICS, "/ip4/0.0.0.0/tcp/0")
        args.id = self._node.id
        self._endpoint = ("", 0)
        super().__init__(args)

    def _speaks(self, args: argparse.Namespace) -> Revision:
        return next(one for one in supported() if one.transport == "libp2p")

    def open(self) -> None:
        self._loop.add_reader(self._node.fileno(), self._wake)

    def _wake(self) -> None:
        events, over = self._node.receive()
        assert not over, events
        for event in events:
            match event:
                case ("message", _, topic, payload):
                    self._judge([(topic, payload)])
                case (("up" | "down") as change, peer, *_):
                    exo.say(f"{peer[-8:]} {change}")
                    self._election.moved()
                case ("listening", address) if "127.0.0.1" not in address:
                    _, _, host, _, port = address.split("/")
                    self._endpoint = host, int(port)

    def _send(self, topic: str, payload: bytes) -> None:
        self._node.publish(topic, payload)

    def _publish(self, topic: str, message: Json) -> None:
        super()._publish(topic, self.revision.shape(topic, message))

    def _tell(self, info: Json) -> None:
        if "NodeBackends" not in info:
            super()._tell(info)

    # ── discovery ──

    async def _hello(self) -> None:
        """Ask at growing intervals, with an id; dial whoever answers."""
        wait = 0.5
        while True:
            await asyncio.sleep(wait)
            wait *= 2
            ask = struct.pack("!6H", 4711, 0, 1, 0, 0, 0) + SERVICE + struct.pack("!2H", 12, 1)
            if self._mdns is not None:
                self._mdns.sendto(ask, (GROUP, PORT))

    def _discover(self) -> None:
        super()._discover()
        self._mdns: Any = None
        self._loop.call_later(0.05, self._open_mdns)

    def _open_mdns(self) -> None:
        if not self._endpoint[1]:
            self._loop.call_later(0.05, self._open_mdns)
            return
        self._mdns = open_port(self._endpoint[0])
        self._mdns.setblocking(False)
        self._loop.add_reader(self._mdns, self._heard)

    def _heard(self) -> None:
        data, _ = self._mdns.recvfrom(9000)
        if SERVICE not in data:
            return
        if not data[2] & 0x80:
            host, port = self._endpoint
            self._mdns.sendto(answer(TTL, host, port=port, node=self.id), (GROUP, PORT))
            return
        for endpoint in _ENDPOINT.findall(data):
            if self.id not in endpoint.decode() and NODE not in endpoint.decode():
                self._node.dial(endpoint.decode())


async def main() -> None:
    await ReleasedExo(exo.arguments().parse_args()).run()


if __name__ == "__main__":
    asyncio.run(main())
