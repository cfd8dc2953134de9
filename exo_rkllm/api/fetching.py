"""Images that a request names by address, fetched where `[api] fetch_images` allows it.

Whoever may ask could otherwise have the board call services of its own network. So a name is resolved here, only
addresses of the public internet are taken, and the connection goes to an address that was checked, as after each
redirect.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from exo_rkllm.api.bodies import HeldBody
from exo_rkllm.backends.base import Image
from exo_rkllm.schema.specs import FieldError

ADDRESS = re.compile(r"https?://", re.IGNORECASE | re.ASCII)
MOST_ADDRESSES = 16
MOST_REDIRECTS = 3
# For all images of a request together.
SECONDS = 20.0
CHUNK = 1 << 16
# What of a network is reached without a router: names of the provider's addresses lead to neighbours on the LAN, too.
OWN_PREFIX: Mapping[int, int] = {4: 24, 6: 64}
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
HINT = "Send the image itself, as a data URL in base64."


@dataclass(frozen=True, slots=True)
class ImageAddress:
    """An address in a request's body, and where the image is put in its place: `holder[key]`."""

    url: str
    where: str
    holder: dict[str, Any]
    key: str


def addresses_in(values: Mapping[str, Any]) -> Iterator[ImageAddress]:
    """Those of images in the messages of any language."""
    for section in ("messages", "input"):
        turns = values.get(section)
        for turn, message in enumerate(turns if isinstance(turns, list) else ()):
            if isinstance(message, dict):
                for name in ("content", "output"):
                    yield from _addresses_of(message.get(name), f"{section}[{turn}].{name}")


def _addresses_of(parts: Any, where: str) -> Iterator[ImageAddress]:
    """Those of a message's parts; a tool's result has parts of its own."""
    for index, part in enumerate(parts if isinstance(parts, list) else ()):
        yield from _addresses_in(part, f"{where}[{index}]")
        yield from _addresses_of(part.get("content"), f"{where}[{index}].content")


def _addresses_in(part: dict[str, Any], where: str) -> Iterator[ImageAddress]:
    for name in ("image_url", "source"):
        value = part.get(name)
        holder, key, place = (value, "url", f"{where}.{name}.url") if isinstance(value, dict) else (part, name, where)
        if isinstance(url := holder.get(key), str) and ADDRESS.match(url):
            yield ImageAddress(url, place if holder is value else f"{where}.{name}", holder, key)


async def fetch_images(values: Mapping[str, Any], most: int, held: HeldBody, check: Callable[[], None]) -> None:
    """Puts an Image in the place of each address in the body's values; all of them have at most `most` bytes.

    Raises a FieldError for the first one that cannot be had, and what `check` raises before anything is fetched.
    """
    found = list(addresses_in(values))
    if found:
        check()
    if len(found) > MOST_ADDRESSES:
        raise FieldError(
            found[MOST_ADDRESSES].where, f"More than {MOST_ADDRESSES} images are to be fetched for one request.", HINT
        )
    deadline = asyncio.get_running_loop().time() + SECONDS
    images: dict[str, Image] = {}
    for address in found:
        if address.url not in images:
            limit = deadline - asyncio.get_running_loop().time()
            try:
                image = await asyncio.wait_for(_fetch(address, most, held), max(0.0, limit))
            except asyncio.TimeoutError:
                raise FieldError(
                    address.where, f"The images of the request did not arrive within {SECONDS:g} seconds.", HINT
                ) from None
            most -= len(image.data)
            images[address.url] = image
        address.holder[address.key] = images[address.url]


async def _fetch(address: ImageAddress, most: int, held: HeldBody) -> Image:
    url = address.url
    for _ in range(MOST_REDIRECTS + 1):
        answer = await _one_hop(url, address.where, most, held)
        if isinstance(answer, Image):
            return answer
        url = answer
    raise FieldError(address.where, f"{address.where} leads from one address to the next.", HINT)


async def _one_hop(text: str, where: str, most: int, held: HeldBody) -> Image | str:
    """The image, or the address that the server names instead."""
    try:
        url = URL(text)
        host, port = url.raw_host or "", url.port or 0
    except ValueError:
        host = ""
    if not host or url.scheme not in ("http", "https"):
        raise FieldError(where, f"{where} leads to what is no http or https address.", HINT)
    connector = aiohttp.TCPConnector(resolver=CheckedAddresses(await _public(host, port, where)), force_close=True)
    headers = {"Accept": "image/*", "Accept-Encoding": "identity"}
    try:
        async with (
            aiohttp.ClientSession(connector=connector, trust_env=False, auto_decompress=False) as session,
            session.get(url, allow_redirects=False, headers=headers) as response,
        ):
            if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                return str(url.join(URL(response.headers["Location"])))
            if response.status != 200:
                raise FieldError(where, f"{host} answers {response.status} where {where} leads.", HINT)
            kind = response.content_type
            if not kind.startswith("image/") and kind not in ("application/octet-stream", "binary/octet-stream"):
                raise FieldError(where, f"{host} sends {kind[:80]!a} where {where} leads, which is no image.", HINT)
            return Image(await _data(response, where, most, held), kind)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        if isinstance(error, FieldError):
            raise
        raise FieldError(where, f"{host} does not send what {where} names: {type(error).__name__}.", HINT) from None


async def _data(response: aiohttp.ClientResponse, where: str, most: int, held: HeldBody) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK):
        data += chunk
        if len(data) > most:
            raise FieldError(
                where,
                "The images of the request have more bytes than this daemon takes.",
                "Send smaller ones, or raise [api] body_bytes.",
            )
        held.grow(len(chunk))
    return bytes(data)


# ── where a connection may go ────────────────────────────────────────────────────────────────────


async def _public(host: str, port: int, where: str) -> list[tuple[int, str]]:
    """Family and address of each public address that the name has; raises a FieldError where there is none."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise FieldError(where, f"{where} names a host that is not known: {host[:200]!a}.", HINT) from None
    public: list[tuple[int, str]] = [
        (family, str(address[0])) for family, *_, address in found if is_public(str(address[0]))
    ]
    if not public:
        raise FieldError(
            where, f"{where} leads into a private network, from which nothing is fetched: {host[:200]!a}.", HINT
        )
    return public


def is_public(text: str) -> bool:
    """Whether it is an address of the public internet, and of no network of this machine."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:  # with a zone, which only addresses of a link have
        return False
    if isinstance(address, ipaddress.IPv6Address) and (address not in GLOBAL_UNICAST or address.sixtofour):
        return False  # those with an IPv4 address inside, which a gateway would follow, are elsewhere
    return address.is_global and not address.is_multicast and not _is_own(address)


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether this machine would send from the same network; nothing is sent for it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            source = probe.getsockname()[0]
    except OSError:  # no way there
        return False
    own = ipaddress.ip_network(f"{source.partition('%')[0]}/{OWN_PREFIX[address.version]}", strict=False)
    return address in own


class CheckedAddresses(AbstractResolver):
    """Resolves to what was checked, whatever the name has by now."""

    def __init__(self, addresses: Sequence[tuple[int, str]]) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[Any]:
        return [
            {"hostname": host, "host": address, "port": port, "family": kind, "proto": 0, "flags": 0}
            for kind, address in self._addresses
        ]

    async def close(self) -> None:
        pass
