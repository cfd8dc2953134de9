"""`GET /node_id` where the cluster lives: exo nodes ask every address of a node for it. Nothing else answers there."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable

# A request of this kind is one short packet.
LONGEST, PATIENCE = 4096, 5.0


def answer(request: bytes, node_id: str) -> bytes:
    """The reply to one HTTP request: the node's id as JSON for `GET /node_id`, otherwise 404."""
    line = request.split(b"\r\n", 1)[0].split()
    path = line[1].split(b"?")[0] if len(line) == 3 else b""
    if line[:1] not in ([b"GET"], [b"HEAD"]) or path != b"/node_id":
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    body = json.dumps(node_id).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if line[0] == b"GET" else b"")


class NodeIdServer:
    """One listener for each address of the interfaces; loopback is left to the daemon's own API."""

    def __init__(self, node_id: str, port: int) -> None:
        self.node_id = node_id
        self._port = port
        self._servers: dict[str, asyncio.Server] = {}
        self._turn = asyncio.Lock()

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self._servers)

    async def listen(self, addresses: Iterable[str]) -> None:
        """Listen on exactly these addresses. One that is taken is skipped: our own API may listen on all of them."""
        async with self._turn:
            wanted = set(addresses)
            for address in self._servers.keys() - wanted:
                self._servers.pop(address).close()
            for address in sorted(wanted - self._servers.keys()):
                with contextlib.suppress(OSError):
                    self._servers[address] = await asyncio.start_server(self._serve, address, self._port, limit=LONGEST)

    async def close(self) -> None:
        await self.listen(())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            writer.write(answer(request, self.node_id))
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError, OSError):
            pass
        finally:
            writer.close()
