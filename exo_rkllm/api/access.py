"""Who calls, and whether they may: keys in constant time, Host and Origin against pages of other sites."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from aiohttp import web

from exo_rkllm.api.context import ApiKey, ApiServerSettings, Caller
from exo_rkllm.api.faults import Forbidden, KeyNeeded


def check_api_key(
    headers: Mapping[str, str], address: str, settings: ApiServerSettings, *, local: bool, required: bool
) -> Caller:
    """The caller, or KeyNeeded where `required` and the settings want a key that the request does not bring.

    `local`: over a Unix socket, whose file permissions have decided already. On loopback any key will do.
    """
    if local:
        return Caller("local", control=True)
    secret = _bearer(headers)
    key = _matching_key(secret, settings.keys)
    if key is not None:
        return Caller(key.name, control=key.control)
    if required and settings.needs_key:
        if secret:
            raise KeyNeeded("This API key is not known here.", "exo-rkllm config show lists where keys are kept.")
        raise KeyNeeded("An API key is needed here.", "Send it as: Authorization: Bearer KEY")
    # Clients of one machine differ in nothing else, and each has to send some key anyway.
    return Caller(f"{address} {hashlib.sha256(secret.encode()).hexdigest()[:8]}" if secret else address)


def _bearer(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.casefold() == "bearer" else headers.get("x-api-key", "").strip()


def _matching_key(secret: str, keys: tuple[ApiKey, ...]) -> ApiKey | None:
    """Every key is compared, so that the time tells nothing about which was nearly right."""
    candidate = secret.encode("utf-8", "surrogateescape")
    matches = [key for key in keys if hmac.compare_digest(candidate, key.secret.encode()) and candidate]
    return matches[-1] if matches else None


def check_control(caller: Caller) -> None:
    if not caller.control:
        raise Forbidden(
            "This changes the daemon for everybody, and needs a key with the right to control.",
            "Use the command line (exo-rkllm pull, load, unload, rm), or a key with control = true.",
        )


def host_of(header: str) -> str:
    """The name in a Host header, without port and brackets."""
    name = header.partition("]")[0][1:] if header.startswith("[") else header.partition(":")[0]
    return name.rstrip(".").casefold()


def is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_site(headers: Mapping[str, str], settings: ApiServerSettings) -> None:
    """A web page must not reach the board behind its reader's back: neither by a rebound name nor by a cross post."""
    host = headers.get("Host", "")
    if settings.loopback and host and not is_loopback(host_of(host)) and host_of(host) not in settings.config.hosts:
        raise Forbidden(
            f"This daemon answers on loopback, and not under the name {host_of(host)[:100]!a}.",
            "Call it as localhost, or add the name to [api] hosts.",
        )
    origin = headers.get("Origin", "")
    if origin and not _is_allowed_origin(origin, host, settings):
        raise Forbidden(f"Web pages of {origin[:100]!a} may not call this daemon.", "Add the origin to [api] origins.")


def _is_allowed_origin(origin: str, host: str, settings: ApiServerSettings) -> bool:
    if "*" in settings.config.origins or origin in settings.config.origins:
        return True
    try:
        return bool(host) and urlsplit(origin).netloc.casefold() == host.casefold()
    except ValueError:
        return False


def common_headers(request: web.Request, settings: ApiServerSettings, request_id: str) -> dict[str, str]:
    """Headers of every answer, refusals included; streams send them before they begin."""
    headers = {"X-Request-Id": request_id, "X-Content-Type-Options": "nosniff"}
    if request.path.startswith("/v1/messages"):
        headers["request-id"] = request_id
    origin = request.headers.get("Origin", "")
    if origin and settings.config.origins and _is_allowed_origin(origin, request.headers.get("Host", ""), settings):
        headers |= {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
    return headers


def is_unix(sock: socket.socket | None) -> bool:
    return sock is not None and sock.family == socket.AF_UNIX
