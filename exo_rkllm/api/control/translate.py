"""From the command line's requests to ours, and who sent them."""

from __future__ import annotations

import json
import logging
import pwd
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from exo_rkllm.api.common_fields import base64_bytes
from exo_rkllm.backends.base import GenerationRequest, Image, Message, Structure
from exo_rkllm.errors import UsageError
from exo_rkllm.sampling import Sampling
from exo_rkllm.schema.specs import ObjectSpec

log = logging.getLogger("exo_rkllm.api.control")

CREDENTIALS = struct.Struct("iII")


async def read_body(request: web.Request, table: ObjectSpec) -> dict[str, Any]:
    try:
        body = json.loads(await request.read())
    except ValueError:
        raise UsageError("The request's body is not JSON.") from None
    return table.check(body, "")


def question_of(values: Mapping[str, Any]) -> GenerationRequest:
    try:
        return GenerationRequest(
            model=values["model"],
            messages=tuple(_message(message) for message in values.get("messages", ())),
            prompt=values.get("prompt"),
            tokens=tuple(values["tokens"]) if "tokens" in values else None,
            sampling=Sampling(**values.get("sampling", {})),
            max_tokens=values.get("max_tokens"),
            thinking=values.get("thinking"),
            structure=Structure(**values["structure"]) if "structure" in values else None,
        )
    except TypeError as error:
        raise UsageError(f"The question cannot be read: {error}.") from None


def _message(value: Mapping[str, Any]) -> Message:
    images = tuple(Image(base64_bytes(data, "images"), "") for data in value.get("images", ()))
    return Message(**{**value, "images": images})


def line_count(text: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"lines must be a whole number, not {text!r}.")
    return int(text)


@dataclass(frozen=True, slots=True)
class SocketPeer:
    """The process at the other end of a Unix socket."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        try:
            name = pwd.getpwuid(self.uid).pw_name
        except KeyError:  # a user of another container's table
            name = "somebody"
        return f"{name} (uid {self.uid}, pid {self.pid})"


def peer_of(sock: socket.socket) -> SocketPeer:
    """SO_PEERCRED: credentials at the time of connect(2), which nobody can forge."""
    return SocketPeer(*CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)))


def log_change(request: web.Request, verb: str, what: str) -> None:
    """Who changed the daemon for everybody is written down."""
    sock = None if request.transport is None else request.transport.get_extra_info("socket")
    peer = peer_of(sock) if sock is not None else "somebody"
    log.info("%s %s %s.", peer, verb, what, extra={"peer": peer})
