"""What exo nodes tell over HTTP, asked without leaving a trace in the cluster."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from exo_rkllm.cluster.effects import QueryNodesEffect
from exo_rkllm.cluster.wire.events import Raw

if TYPE_CHECKING:
    import aiohttp

# A LAN answers in milliseconds; the log can be read instead.
TIMEOUT = 1.5
# A state of a cluster that has run for months is a few megabytes.
LARGEST = 64 << 20


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What one exo node told over HTTP."""

    node_id: str
    state: Raw
    openapi: Raw | None = None


def urls(addresses: Sequence[str], port: int) -> list[str]:
    """exo's API listens on IPv4 only; others are tried last. Loopback would be our own."""
    usable = [address for address in addresses if not ipaddress.ip_address(address).is_loopback]
    usable.sort(key=lambda address: ":" in address)
    return [f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}" for address in usable]


async def _json(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as answer:
        answer.raise_for_status()
        return json.loads(await answer.content.read(LARGEST))


async def _node(session: aiohttp.ClientSession, url: str, node: str, *, openapi: bool) -> NodeAnswer | None:
    """One node at one address; an address may be another machine's, so its id is looked at first."""
    import aiohttp

    try:
        if await _json(session, f"{url}/node_id") != node:
            return None
        document = await _json(session, f"{url}/openapi.json") if openapi else None
        state = await _json(session, f"{url}/state")
    except (aiohttp.ClientError, OSError, ValueError, asyncio.TimeoutError):
        return None
    if not isinstance(state, dict) or not isinstance(document, dict | None):
        return None
    return NodeAnswer(node, state, document)


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
