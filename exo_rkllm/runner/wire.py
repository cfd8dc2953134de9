"""What the daemon and a model's child process say to each other over their socketpair.

A frame is a little-endian header (payload length, kind, run number) and its payload. Tokens are the only frequent
frame and carry their id and raw text bytes; everything rare is JSON. Arrays never go through the stream: they lie in
an anonymous memory file whose descriptor travels beside the frame.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from typing import Any, NamedTuple

from exo_rkllm.errors import ExoRkllmError

HEADER = Struct("<IBI")
# Header and token id at once: a token frame is built in one call.
TOKEN_HEAD = Struct("<IBIi")
TOKEN_ID = Struct("<i")
MAX_PAYLOAD = 64 << 20
CHUNK = 1 << 16
MAX_FDS = 16


class FrameKind(IntEnum):
    # daemon to child
    LOAD = 1
    RUN = 2
    ABORT = 3
    CALL = 4
    BYE = 5
    # child to daemon
    READY = 16
    TOKEN = 17
    ROWS = 18
    DONE = 19
    FAILED = 20
    REPLY = 21
    STARTED = 22
    LOG = 23


TO_CHILD = frozenset(kind for kind in FrameKind if kind < FrameKind.READY)
TO_PARENT = frozenset(kind for kind in FrameKind if kind >= FrameKind.READY)


# Plain numbers for the hot path, where every attribute that is looked up is one more cold line of memory.
TOKEN, HEAD, TEXT_AT = int(FrameKind.TOKEN), HEADER.size, TOKEN_HEAD.size


class ProtocolError(Exception):
    """The other side sent bytes that are no frame; whoever reads this ends the connection."""


class Frame(NamedTuple):
    kind: FrameKind
    run: int
    payload: bytes

    def json(self) -> dict[str, Any]:
        try:
            value = json.loads(self.payload)
        except ValueError as error:
            raise ProtocolError(f"a {self.kind.name} frame without JSON") from error
        if not isinstance(value, dict):
            raise ProtocolError(f"a {self.kind.name} frame without an object")
        return value


def pack(kind: FrameKind, run: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(len(payload), kind, run) + payload


def pack_json(kind: FrameKind, run: int, value: dict[str, Any]) -> bytes:
    return pack(kind, run, json.dumps(value, separators=(",", ":")).encode())


def pack_failure(run: int, error: ExoRkllmError) -> bytes:
    """What `errors.from_code` rebuilds on the other side."""
    return pack_json(FrameKind.FAILED, run, {"code": error.code, "sentence": error.sentence, "hint": error.hint})


class Reader:
    """Cuts a byte stream into frames; what is incomplete waits for the next feed."""

    def __init__(self, allowed: frozenset[FrameKind]) -> None:
        self._kinds = {int(kind): kind for kind in allowed}
        self._rest = b""

    def sole_token(self, data: bytes) -> tuple[int, int, bytes] | None:
        """Run, id and text where the data is exactly one token's frame, as at any speed that a board has."""
        if self._rest or len(data) < TEXT_AT:
            return None
        length, kind, run, token = TOKEN_HEAD.unpack_from(data)
        if kind != TOKEN or len(data) != HEAD + length:
            return None
        return run, token, data[TEXT_AT:]

    def feed(self, data: bytes) -> list[Frame]:
        data = self._rest + data if self._rest else data
        frames: list[Frame] = []
        at, end = 0, len(data)
        while end - at >= HEADER.size:
            length, number, run = HEADER.unpack_from(data, at)
            kind = self._kinds.get(number)
            if kind is None or length > MAX_PAYLOAD:
                raise ProtocolError(f"a frame of kind {number} with {length} bytes")
            start = at + HEADER.size
            if end - start < length:
                break
            at = start + length
            frames.append(Frame(kind, run, data[start:at]))
        self._rest = data[at:]
        return frames


def send_some(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> int:
    """How many bytes went; descriptors go with the first byte, so they arrive before their frame is complete."""
    if not fds:
        return sock.send(data)
    return sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def send(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Everything, on a blocking socket."""
    sent = send_some(sock, data, fds)
    if sent < len(data):
        sock.sendall(memoryview(data)[sent:])


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """What has arrived, and the descriptors that came with it; b"" when the other side is gone."""
    data, extras, _, _ = sock.recvmsg(CHUNK, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, content in extras:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
            fds.extend(numbers)
    return data, fds


def memory_file(name: str, data: bytes | memoryview[int] | memoryview[float]) -> int:
    """An anonymous file with these bytes; it lives as long as somebody holds a descriptor or a mapping of it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd
