"""What exo nodes tell over HTTP, asked without leaving a trace in the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exo_rkllm.cluster.effects import QueryNodesEffect
from exo_rkllm.cluster.wire.events import Raw

if TYPE_CHECKING:
    import aiohttp

# A LAN answers in milliseconds; the log can be read instead.
TIMEOUT = 1.5
# A busy exo 1.0.71 writes its openapi.json for so long at most.
INSPECTION_TIMEOUT = 6.0
# A state of a cluster that has run for months is a few megabytes.
LARGEST = 64 << 20
_ENDPOINT = re.compile(r"/ip4/([^/]+)/tcp/\d+(?:/p2p/(\w+))?")


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What one exo node told over HTTP; None is what did not come in time."""

    node_id: str
    state: Raw | None
    openapi: Raw | None = None


def urls(addresses: Sequence[str], port: int) -> list[str]:
    """exo's API listens on IPv4 only; others are tried last. Loopback would be our own."""
    usable = [address for address in addresses if not ipaddress.ip_address(address).is_loopback]
    usable.sort(key=lambda address: ":" in address)
    return [f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}" for address in usable]


async def _json(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as answer:
        answer.raise_for_status()
        body = bytearray()
        async for piece in answer.content.iter_any():
            body += piece
            if len(body) > LARGEST:
                raise ValueError(f"{url} does not end")
        return json.loads(body)


async def _node(session: aiohttp.ClientSession, url: str, node: str, *, openapi: bool) -> NodeAnswer | None:
    """One node at one address; an address may be another machine's, so its id is looked at first, if one is given.

    The state comes before openapi.json, which exo takes a second to write.
    """
    import aiohttp

    document = None
    try:
        told = await _json(session, f"{url}/node_id")
        if not isinstance(told, str) or node not in ("", told):
            return None
        state = await _json(session, f"{url}/state")
        if openapi:
            with contextlib.suppress(asyncio.TimeoutError):
                document = await _json(session, f"{url}/openapi.json")
    except (aiohttp.ClientError, OSError, ValueError, asyncio.TimeoutError):
        return None
    if not isinstance(state, dict) or not isinstance(document, dict | None):
        return None
    return NodeAnswer(told, state, document)


async def query_nodes(
    query: QueryNodesEffect, addresses: Mapping[str, tuple[str, ...]], port: int
) -> NodeAnswer | None:
    """The answer of the first node that has one, the master's before the others'."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for node in query.nodes:
            tries = [
                asyncio.ensure_future(_node(session, url, node, openapi=query.openapi))
                for url in urls(addresses.get(node, ()), port)
            ]
            try:
                for answer in asyncio.as_completed(tries):
                    found = await answer
                    if found is not None:
                        return found
            finally:
                for one in tries:
                    one.cancel()
    return None


class Inspection:
    """Asks one node of exo 1.0.71 for its openapi.json before it is connected to.

    exo writes it when it is asked first, and does nothing else meanwhile: for a second, or five where it is busy. A
    connection makes its nodes hold an election, which a master that is silent for three seconds loses: then there are
    two masters, and the other one has none of the log.
    """

    def __init__(self, port: int) -> None:
        self.document: Raw | None = None
        self._port = port
        self._asking: asyncio.Task[None] | None = None

    def begin(self, endpoints: Sequence[str]) -> None:
        """Ask the first of them that answers, unless one was asked."""
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask(endpoints))

    async def end(self, endpoints: Sequence[str]) -> None:
        """Return when one was asked, with or without an answer."""
        self.begin(endpoints)
        if self._asking is not None:
            await asyncio.wait([self._asking])

    def forget(self) -> None:
        """Whoever is there next may be another exo."""
        self.document = None
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def _ask(self, endpoints: Sequence[str]) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            self.document = await asyncio.wait_for(openapi_of(endpoints, self._port), INSPECTION_TIMEOUT)


async def openapi_of(endpoints: Sequence[str], port: int) -> Raw | None:
    """The openapi.json of the first node that answers; `endpoints` are those of libp2p."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=INSPECTION_TIMEOUT, sock_connect=TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for address in filter(None, map(_ENDPOINT.match, endpoints)):
            answer = await _node(session, f"http://{address[1]}:{port}", address[2] or "", openapi=True)
            if answer is not None and answer.openapi is not None:
                return answer.openapi
    return None
