"""Who calls, and whether they may: keys in constant time, Host and Origin against pages of other sites."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from aiohttp import web

from exo_rkllm.api.context import ApiKey, ApiServerSettings, Caller
from exo_rkllm.api.faults import Forbidden, KeyNeeded
from exo_rkllm.api.rights import Right

# Pages that are programs on their user's own machine, which Ollama admits as well: apps, editors, browser extensions.
APP_SCHEMES = frozenset(
    ("app", "tauri", "vscode-webview", "vscode-file", "chrome-extension", "moz-extension", "safari-web-extension")
)
# `[address]` or a name, and a port. A browser sends nothing else.
HOST = re.compile(r"(?:\[([0-9A-Fa-f:.%\w-]+)\]|([^\[\]:]+))(?::\d*)?", re.ASCII)


def check_api_key(
    headers: Mapping[str, str], address: str, settings: ApiServerSettings, *, local: bool, required: bool
) -> Caller:
    """The caller, or KeyNeeded where `required` and the settings want a key that the request does not bring.

    `local`: over a Unix socket, whose file permissions have decided already. Where no key is needed, any text of ASCII
    will do.
    """
    if local:
        return Caller("local", "control")
    secret = _bearer(headers)
    if not secret.isascii():
        raise KeyNeeded("An API key has ASCII characters only, and this one has others.", "Copy it again.")
    key = _matching_key(secret, settings.keys)
    if key is not None:
        return Caller(key.name, "control" if key.control else "ask")
    from_loopback = is_loopback(address)
    if required and settings.needs_key(from_loopback=from_loopback):
        if secret:
            raise KeyNeeded("This API key is not known here.", "exo-rkllm config show lists where keys are kept.")
        raise KeyNeeded("An API key is needed here.", "Send it as: Authorization: Bearer KEY")
    # Clients of one machine differ in nothing else, and each has to send some key anyway.
    client = f"{address} {hashlib.sha256(secret.encode()).hexdigest()[:8]}" if secret else address
    return Caller(client, "load" if from_loopback and not settings.keys else "ask")


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.casefold() == "bearer" else headers.get("x-api-key", "").strip()


def _matching_key(secret: str, keys: tuple[ApiKey, ...]) -> ApiKey | None:
    """Every key is compared, so that the time tells nothing about which was nearly right."""
    candidate = secret.encode()
    matches = [key for key in keys if hmac.compare_digest(candidate, key.secret.encode()) and candidate]
    return matches[-1] if matches else None


def check_right(caller: Caller, right: Right) -> None:
    """Raise Forbidden where the caller lacks the right."""
    if not caller.may(right):
        raise Forbidden(
            "This changes the daemon for everybody, and needs a key with the right to control.",
            "Use the command line (exo-rkllm pull, load, unload, rm), or a key with the word control after it.",
        )


def host_of(header: str) -> str:
    """The name in a Host header, without port and brackets; empty where the header is none."""
    match = HOST.fullmatch(header)
    return (match[1] or match[2]).rstrip(".").casefold() if match else ""


def is_loopback(host: str) -> bool:
    """Whether the name or address is this machine's own; ::ffff:127.0.0.1, as a socket of both families says it, is."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def check_site(headers: Mapping[str, str], remote: str, settings: ApiServerSettings) -> None:
    """A web page must not reach the board behind its reader's back: neither by a rebound name nor by a cross post.

    A name that the page's owner can point here is refused wherever no key stands in the way. An address cannot be
    rebound, so beyond loopback every address is taken.
    """
    host = headers.get("Host", "")
    exposed = settings.loopback or not settings.needs_key(from_loopback=is_loopback(remote))
    if exposed and host and not _is_own_name(host_of(host), settings):
        where = "on loopback" if settings.loopback else "without a key"
        raise Forbidden(
            f"This daemon answers {where}, and not under the name {host[:100]!a}.",
            "Call it as localhost or by its address, or add the name to [api] hosts.",
        )
    origin = headers.get("Origin", "")
    if origin and not _is_allowed_origin(origin, host, settings):
        raise Forbidden(f"Web pages of {origin[:100]!a} may not call this daemon.", "Add the origin to [api] origins.")


def _is_own_name(host: str, settings: ApiServerSettings) -> bool:
    if is_loopback(host) or (host and host in settings.config.hosts):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return not settings.loopback


def _is_allowed_origin(origin: str, host: str, settings: ApiServerSettings) -> bool:
    if "*" in settings.config.origins or origin in settings.config.origins:
        return True
    try:
        page = urlsplit(origin)
        is_own = page.scheme in APP_SCHEMES or (page.scheme in ("http", "https") and is_loopback(page.hostname or ""))
    except ValueError:
        return False
    return is_own or (bool(host) and page.netloc.casefold() == host.casefold())


def common_headers(request: web.Request, settings: ApiServerSettings, request_id: str) -> dict[str, str]:
    """Headers of every answer, refusals included; streams send them before they begin."""
    headers = {"X-Request-Id": request_id, "X-Content-Type-Options": "nosniff"}
    if request.path.startswith("/v1/messages"):
        headers["request-id"] = request_id
    origin = request.headers.get("Origin", "")
    if origin and _is_allowed_origin(origin, request.headers.get("Host", ""), settings):
        headers |= {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
    return headers


def is_unix(sock: socket.socket | None) -> bool:
    return sock is not None and sock.family == socket.AF_UNIX
