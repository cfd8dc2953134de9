"""The lease socket, on which other programs take turns with our models on the NPU.

A program connects and sends `ACQUIRE <name>`, a line. It gets `GRANTED` once no model computes, or `REFUSED <why>`, and
holds the NPU until it sends `RELEASE` or the connection closes, be it by a crash. `EXPIRED` says that
`[dispatch] lease_timeout` is over: the connection closes `GRACE` seconds later, and models compute again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress

from exo_rkllm.board.files import clean
from exo_rkllm.dispatch.lease import NpuLease
from exo_rkllm.errors import ExoRkllmError

log = logging.getLogger(__name__)

# A name and its verb, and not a byte more; who has connected has this long to send them.
LINE = 200
NAME = 64
FIRST_LINE = 10.0
# Connections at a time: each takes a descriptor of the daemon.
MOST = 64
ASK = "Send ACQUIRE, a name and a newline."


class LeaseServer:
    """`lease` is entered when the program of that name has the NPU for itself."""

    def __init__(self, lease: Callable[[str], AbstractAsyncContextManager[NpuLease]]) -> None:
        self._lease = lease
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, sock: socket.socket) -> None:
        self._server = await asyncio.start_unix_server(self._connected, sock=sock, limit=LINE)

    async def close(self) -> None:
        """Every holder sees its connection close."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._converse(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if len(self._connections) > MOST:
                _send(writer, f"REFUSED {MOST} programs are connected already.")
                return
            name = await _name(reader)
            if not name:
                _send(writer, f"REFUSED {ASK}")
                return
            # Whatever arrives after the first line is the end: RELEASE, the end of the stream, or nonsense.
            leaving = asyncio.ensure_future(_line(reader))
            holding = asyncio.ensure_future(self._hold(name, writer))
            try:
                await asyncio.wait({leaving, holding}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
                holding.cancel()
                await asyncio.wait({leaving, holding})
        finally:
            writer.close()

    async def _hold(self, name: str, writer: asyncio.StreamWriter) -> None:
        """Returns when the lease has ended although its holder is still there, or was refused."""
        loop = asyncio.get_running_loop()
        try:
            async with self._lease(name) as lease:
                log.info("%s has the NPU.", name)
                began = loop.time()
                try:
                    _send(writer, "GRANTED")
                    await lease.expired.wait()
                    log.warning("%s has held the NPU for %.0f s and is told to stop.", name, loop.time() - began)
                    _send(writer, "EXPIRED")
                    await lease.ended.wait()
                    log.warning("%s did not give the NPU back in time; models use it again.", name)
                finally:
                    log.info("%s had the NPU for %.1f s.", name, loop.time() - began)
        except ExoRkllmError as error:
            _send(writer, f"REFUSED {error.sentence}")


async def _name(reader: asyncio.StreamReader) -> str:
    """What the first line asks the NPU for; empty where that is no line of ours."""
    with suppress(asyncio.TimeoutError):
        verb, _, name = (await asyncio.wait_for(_line(reader), FIRST_LINE)).partition(" ")
        return clean(name, NAME).strip() if verb == "ACQUIRE" else ""
    return ""


async def _line(reader: asyncio.StreamReader) -> str:
    """The next line; empty for the end of the stream, however it comes, and for a line that is too long."""
    with suppress(OSError, ValueError):
        return (await reader.readline()).decode(errors="replace").strip()
    return ""


def _send(writer: asyncio.StreamWriter, line: str) -> None:
    """So few and short that they always fit into the socket's buffer."""
    writer.write(f"{line}\n".encode())
