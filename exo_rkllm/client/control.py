"""Calls to the running daemon over its control socket, and a sentence for everything that can be in the way.

Standard library only, and http.client only when a call is made: `exo-rkllm --help` must not pay for it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exo_rkllm import __version__
from exo_rkllm.config import load, places
from exo_rkllm.errors import ExoRkllmError, from_code

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

VERSION_HEADER = "X-Exo-Rkllm-Version"
WENT_AWAY, LOGS = "The daemon went away in the middle of its answer.", "exo-rkllm logs"


class DaemonUnreachable(ExoRkllmError):
    """There is no daemon, or this user may not speak to it."""

    code = "daemon"
    status = 503


class NotInTheGroup(DaemonUnreachable):
    """The socket is there, and closed to this user."""


class VersionMismatch(ExoRkllmError):
    """The command and the daemon are of different releases."""

    code = "version"


class Client:
    """One socket; every call is a connection of its own."""

    def __init__(self, path: Path, timeout: float | None = None) -> None:
        self.path = path
        self._timeout = timeout

    def get(self, path: str) -> dict[str, Any]:
        return self._call("GET", path, None)

    def post(self, path: str, **fields: Any) -> dict[str, Any]:
        return self._call("POST", path, fields)

    def stream(self, method: str, path: str, **fields: Any) -> Iterator[dict[str, Any]]:
        """Values as they come; an answer that breaks off is an error, and so is one that ends with one."""
        with closing(self._connect()) as connection:
            response = self._answer(connection, method, path, fields if method == "POST" else None)
            for line in response:
                if not line.strip():
                    continue
                value = json.loads(line)
                if "error" in value:
                    raise from_code(**value["error"])
                if value == {"done": True}:
                    return
                yield value
        raise DaemonUnreachable(WENT_AWAY, LOGS)

    def _call(self, method: str, path: str, fields: Mapping[str, Any] | None) -> dict[str, Any]:
        with closing(self._connect()) as connection:
            answer: dict[str, Any] = json.loads(self._answer(connection, method, path, fields).read())
            return answer

    def _answer(
        self, connection: HTTPConnection, method: str, path: str, fields: Mapping[str, Any] | None
    ) -> HTTPResponse:
        from http.client import HTTPException

        body = (
            None if fields is None else json.dumps({name: value for name, value in fields.items() if value is not None})
        )
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
        except (ConnectionError, HTTPException):
            raise DaemonUnreachable(WENT_AWAY, LOGS) from None
        theirs = response.getheader(VERSION_HEADER, "")
        if theirs != __version__:
            raise VersionMismatch(
                f"This command is exo-rkllm {__version__} and the daemon is {theirs or 'something else'}.",
                "systemctl restart exo-rkllm",
            )
        if response.status >= 400:
            raise from_code(**json.loads(response.read())["error"])
        return response

    def _connect(self) -> HTTPConnection:
        from http.client import HTTPConnection

        connection = HTTPConnection("localhost", timeout=self._timeout)
        connection.sock = connect(self.path, self._timeout)
        return connection


def connect(path: Path, timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        sock.connect(str(path))
    except PermissionError:
        sock.close()
        group = group_of(path)
        raise NotInTheGroup(
            f"You may not use the daemon's control socket {path}: it is for the group {group}.",
            # A daemon that root started by hand; root's group is nobody's to join.
            "sudo exo-rkllm ..., or run the daemon as its service: sudo systemctl start exo-rkllm"
            if group == "root"
            else f"sudo usermod -aG {group} $USER, then log in again",
        ) from None
    except OSError:
        sock.close()
        raise not_running([path]) from None
    return sock


def not_running(paths: Iterable[Path]) -> DaemonUnreachable:
    """`paths` are all sockets that were tried."""
    return DaemonUnreachable(
        f"The daemon is not running: nobody answers at {' or '.join(map(str, paths))}.",
        "sudo systemctl start exo-rkllm, or in a terminal of its own: exo-rkllm serve",
    )


def group_of(path: Path) -> str:
    """The socket's group, or its folder's where that is closed already."""
    for place in (path, path.parent):
        try:
            return place.group()
        except (OSError, KeyError):
            continue
    return "exo-rkllm"


def listening(paths: Iterable[Path]) -> Path | None:
    """The first socket behind which a daemon answers; raises NotInTheGroup where one is closed to this user."""
    for path in paths:
        try:
            connect(path, 2.0).close()
        except NotInTheGroup:
            raise
        except DaemonUnreachable:
            continue
        return path
    return None


def sockets(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Where a daemon may listen: the configured socket, else the user's own and the service's."""
    configured, here = load(environment).control.socket, places(environment)
    return here.sockets if configured == str(here.socket) else (Path(configured),)


def find(environment: Mapping[str, str] = os.environ) -> Client | None:
    """The user's own daemon, else the service; None where neither has a socket."""
    path = listening(sockets(environment))
    return None if path is None else Client(path)


def daemon(environment: Mapping[str, str] = os.environ) -> Client:
    """For verbs that are nothing without a daemon."""
    client = find(environment)
    if client is None:
        raise not_running(sockets(environment))
    return client


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """The daemon's own word: `status` where it answered, `error` where it did not; neither where none runs."""

    status: Mapping[str, Any] | None = None
    error: ExoRkllmError | None = None

    @property
    def load(self) -> tuple[float, ...] | None:
        """The NPU's load, which the daemon may read where this user may not; it can be of another version."""
        npu = (self.status or {}).get("npu")
        load = npu.get("load") if isinstance(npu, Mapping) else None
        if not isinstance(load, Sequence) or not load or not all(isinstance(part, int | float) for part in load):
            return None
        return tuple(min(max(float(part), 0.0), 1.0) for part in load)


def daemon_status(environment: Mapping[str, str] = os.environ) -> DaemonStatus:
    """For verbs that can do without a daemon."""
    try:
        client = find(environment)
        return DaemonStatus() if client is None else DaemonStatus(client.get("/control/status"))
    except ExoRkllmError as error:
        return DaemonStatus(error=error)
