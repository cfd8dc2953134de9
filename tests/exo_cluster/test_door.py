"""Who is let in by discovery: neighbours, at their own address and exo's ports, and nobody from behind a router."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.exo_cluster.lab import Host, Lab, ip_in, within

# A fake exo: says Hello to one address, answers the board's own Hello, and reports who connects to its port.
STRANGER = """
import json, os, select, socket, sys, time
source, target, port, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
scope = socket.if_nametoindex("eth0")
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.bind((source, 52413, 0, scope if source.startswith("fe80") else 0))
door = socket.create_server(("::", port), family=socket.AF_INET6)
namespace = bytes.fromhex("6e2bf1dad2aa1268")
report = {"asked": False, "connected": False}
end = time.monotonic() + seconds
while time.monotonic() < end and not report["connected"]:
    udp.sendto(b"EXO\\0" + os.urandom(8) + namespace, (target, 52413, 0, scope if target.startswith("f") else 0))
    for one in select.select([udp, door], [], [], 0.3)[0]:
        if one is door:
            report["connected"] = True
            continue
        data, sender = udp.recvfrom(64)
        if len(data) == 20 and data[3] == 0:
            report["asked"] = True
            answer = b"EXO\\1" + data[4:12] + bytes.fromhex("01") + bytes(14) + b"\\x0a" + port.to_bytes(2, "little")
            udp.sendto(answer, sender)
print(json.dumps(report))
"""


def approach(stranger: Host, source: str, target: str, port: int, seconds: float = 4.0) -> dict[str, bool]:
    command = within(stranger.namespace, sys.executable, "-c", STRANGER, source, target, str(port), str(seconds))
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, bool] = json.loads(done.stdout)
    return report


def link_local(host: Host) -> str:
    command = within(host.namespace, "ip", "-j", "-6", "addr", "show", "dev", "eth0", "scope", "link")
    addresses = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return str(next(one["local"] for entry in addresses for one in entry.get("addr_info", ())))


@pytest.mark.parametrize("namespace", ["auto", "0.3.70"])
async def test_fake_exo_of_another_subnet_is_not_heard(lab: Lab, namespace: str) -> None:
    """By unicast alone it made a default daemon connect to it and join."""
    home, away = lab.host(), lab.host()
    ip_in(home.namespace, "addr", "add", "fd77::1/64", "dev", "eth0", "nodad")
    ip_in(home.namespace, "route", "add", "fd99::/64", "dev", "eth0")  # as a router's default route would
    ip_in(away.namespace, "addr", "add", "fd99::2/64", "dev", "eth0", "nodad")
    ip_in(away.namespace, "route", "add", "fd77::/64", "dev", "eth0")
    board = await lab.board(home, "--namespace", namespace)
    assert approach(away, "fd99::2", "fd77::1", 52414) == {"asked": False, "connected": False}
    assert (await board.view())["other_clusters"] == []


async def test_board_connects_to_no_port_of_a_strangers_choice(lab: Lab) -> None:
    home, away = lab.host(), lab.host()
    board = await lab.board(home)
    assert approach(away, link_local(away), link_local(home), 6379) == {"asked": True, "connected": False}
    assert (await board.view())["endpoints"] == []


async def test_neighbour_at_exos_port_is_connected_to(lab: Lab) -> None:
    """The counterpart: what the two tests above refuse is accepted from where it may come."""
    home, away = lab.host(), lab.host()
    await lab.board(home)
    assert approach(away, link_local(away), link_local(home), 52414) == {"asked": True, "connected": True}
