"""The sockets that the daemon listens on: the API's, and the control socket with its group."""

from __future__ import annotations

import contextlib
import errno
import grp
import ipaddress
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from exo_rkllm.config import ApiSettings, ControlSettings, MetricsSettings
from exo_rkllm.errors import ConfigError

log = logging.getLogger(__name__)

BACKLOG = 128
GROUP_MAY = 0o660


def is_loopback(sock: socket.socket) -> bool:
    if sock.family == socket.AF_UNIX:
        return True
    return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


def check_open(sockets: Sequence[socket.socket], api: ApiSettings, *, keys: bool) -> None:
    """Raise ConfigError where a socket is reachable from the network, there are no keys, and none were waived."""
    public = [sock for sock in sockets if not is_loopback(sock)]
    if public and not keys and not api.allow_anonymous:
        raise ConfigError(
            f"The API would listen on {address_of(public[0])} for the whole network, and there are no API keys.",
            "Name a file with keys in [api] keys, or set allow_anonymous = true there.",
        )


def api_sockets(api: ApiSettings) -> list[socket.socket]:
    return tcp_sockets("api.listen", api.listen, api.port)


def metrics_sockets(metrics: MetricsSettings) -> list[socket.socket]:
    host, _, port = metrics.listen.rpartition(":")
    if not port.isdecimal() or not host:
        raise ConfigError(f"metrics.listen = {metrics.listen!r} is no address with a port.", 'listen = "0.0.0.0:9115"')
    return tcp_sockets("metrics.listen", host.strip("[]"), int(port))


def tcp_sockets(key: str, host: str, port: int) -> list[socket.socket]:
    """One for every address that the name stands for: localhost is two."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"{key} = {host!r} is no address: {error.strerror}.", 'listen = "127.0.0.1"') from None
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(addresses):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(len(addresses) > 1))
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            # localhost often stands for ::1, too, on a machine without IPv6.
            if not (error.errno == errno.EADDRNOTAVAIL and len(addresses) > 1):
                failure = error
            continue
        sockets.append(sock)
    if failure is not None or not sockets:
        for sock in sockets:
            sock.close()
        raise _cannot_listen(key, host, port, failure)
    return sockets


def _cannot_listen(key: str, host: str, port: int, error: OSError | None) -> ConfigError:
    where = f"{host} port {port}"
    if error is not None and error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"Something listens on {where} already.", f"ss -ltnp 'sport = :{port}' shows what; or choose another port"
        )
    reason = os.strerror(error.errno or 0) if error is not None else "no address of it is on this machine"
    return ConfigError(f"{key}: {where} cannot be listened on: {reason}.", "exo-rkllm config show")


def control_socket(control: ControlSettings) -> socket.socket:
    return unix_socket(Path(control.socket), "control", control.group)


def unix_socket(path: Path, purpose: str, group: str) -> socket.socket:
    """Closed to everybody but its owner until it belongs to its group."""
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o077)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"The {purpose} socket {path} cannot be made: {error.strerror or error}.", f"ls -ld {path.parent}"
        ) from None
    finally:
        os.umask(mask)
    sock.listen(BACKLOG)
    give_to_group(path, group)
    return sock


def give_to_group(path: Path, group: str) -> None:
    """A user's own daemon is in no such group, and keeps the socket for that user alone."""
    try:
        gid = grp.getgrnam(group).gr_gid
        # The unit's own group needs no chown, which its system-call filter forbids.
        if path.stat().st_gid != gid:
            os.chown(path, -1, gid)
        path.chmod(GROUP_MAY)
    except (KeyError, PermissionError):
        log.debug("%s is for this user only: there is no group %s, or this user is not in it.", path, group)


def _clear(path: Path) -> None:
    """The socket of a daemon that died is in the way; one that answers is another daemon's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError:
            return
        else:
            raise ConfigError(
                f"A daemon is running already: it answers at {path}.", "exo-rkllm ps, or systemctl status exo-rkllm"
            )


def remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def address_of(sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return str(sock.getsockname())
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
