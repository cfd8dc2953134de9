"""Connections that take up room: half-sent, idle, and more than there are descriptors for."""

from __future__ import annotations

import contextlib
import http.client
import socket
import sys
import time

import pytest

from tests.daemon.running import Daemon, House

CODE = """\
import sys
sys.argv[0] = "exo-rkllm"
from exo_rkllm.daemon import connections
connections.LIMITS = connections.ConnectionLimits(header=2.0, body=2.0, idle=6.0)
from exo_rkllm.cli import main
raise SystemExit(main())
"""
HASTY = (sys.executable, "-c", CODE)
HALF_HEADER = b"GET /healthz HTTP/1.1\r\nHost: localh"
HALF_BODY = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{"
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def address(daemon: Daemon) -> tuple[str, int]:
    host, _, port = daemon.status()["listening"][0].rpartition(":")
    return host, int(port)


def closed_after(sock: socket.socket, seconds: float, drip: bytes = b"") -> float:
    """Seconds until the daemon closes; `drip` is sent again and again."""
    began = time.monotonic()
    sock.settimeout(0.5)
    while (passed := time.monotonic() - began) < seconds:
        try:
            if not sock.recv(4096):
                return passed
        except TimeoutError:
            with contextlib.suppress(OSError):
                sock.sendall(drip)
        except ConnectionResetError:
            return passed
    raise AssertionError(f"still open after {seconds} s")


@pytest.mark.parametrize(
    ("sent", "drip", "least", "most"),
    [
        (b"", b"", 1.5, 10.0),
        (HALF_HEADER, b"", 1.5, 10.0),
        (HALF_HEADER, b"x", 1.5, 10.0),
        (HALF_BODY, b"", 1.5, 10.0),
        (WHOLE, b"", 5.0, 20.0),
    ],
)
def test_connection_without_a_whole_request_is_closed(
    house: House, sent: bytes, drip: bytes, least: float, most: float
) -> None:
    house.program = HASTY
    daemon = house.start()
    with socket.create_connection(address(daemon)) as sock:
        sock.sendall(sent)
        assert least < closed_after(sock, most, drip) < most


def test_answer_and_slow_body_may_take_longer_than_the_limits(house: House) -> None:
    house.program = HASTY
    model = house.words(tokens_per_second=2.0)
    daemon = house.start()
    body = b'{"model": "%s", "messages": [{"role": "user", "content": "a b c d e f g h i j"}]}' % model.encode()
    connection = http.client.HTTPConnection(*address(daemon), timeout=30)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    for start in range(0, len(body), 30):
        connection.send(body[start : start + 30])
        time.sleep(1.0)
    began = time.monotonic()
    answer = connection.getresponse()
    assert answer.status == 200
    assert b"j" in answer.read()
    assert time.monotonic() - began > 3.0
    connection.close()


def test_daemon_out_of_descriptors_pauses_and_says_so_once(house: House) -> None:
    """asyncio wrote 10,000 lines a second, and the control socket was as deaf as the API."""
    house.program = HASTY
    daemon = house.start(through=("prlimit", "--nofile=64:64"))
    where = address(daemon)
    clients = [socket.create_connection(where) for _ in range(100)]
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.enter_context(client)
            client.sendall(HALF_HEADER)
        time.sleep(1.5)
        assert daemon.status()["listening"], "the control socket still answers"
        lines = [line for line in daemon.text.splitlines() if "New connections wait" in line]
        assert len(lines) == 1, daemon.text
        assert len(daemon.text) < 10_000
    with socket.create_connection(where, timeout=15) as sock:
        sock.sendall(WHOLE)
        assert sock.recv(4096).startswith(b"HTTP/1.1 200"), "it goes on once there is room"
