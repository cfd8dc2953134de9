"""The cluster's door as its operator sees it: a daemon meets an exo cluster, says so, leaves it and comes back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.cluster.identity import LEFT, KnownClusters
from tests.daemon.running import REPOSITORY, Daemon, House
from tests.exo_cluster.conftest import namespaces  # noqa: F401 - a fixture
from tests.exo_cluster.lab import Host, Lab, until, within

AUTO: dict[str, Any] = {"EXO_RKLLM_CLUSTER_ENABLED": "true", "EXO_RKLLM_CLUSTER_NAME": "kitchen"}
ANNOUNCED = "joins the exo cluster 0.3.70, which nobody has confirmed"
FORBIDS = "enabled = false under [cluster]"


@pytest.fixture
async def lab(namespaces: None) -> AsyncIterator[Lab]:  # noqa: F811
    async with Lab() as made:
        yield made


def started(house: House, host: Host, **variables: str) -> Daemon:
    return house.start(through=within(host.namespace), **{**AUTO, **variables})


async def serving(daemon: Daemon) -> dict[str, Any]:
    async def view() -> dict[str, Any]:
        cluster: dict[str, Any] = daemon.status()["cluster"] or {}
        return cluster if cluster.get("phase") == "serving" else {}

    await until(view, 15)
    return await view()


def metric(daemon: Daemon, name: str) -> float | None:
    """Over the control socket, which does not depend on the network namespace."""
    connection = daemon.client._connect()
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    return next((float(line.split()[1]) for line in page.splitlines() if line.startswith(f"{name} ")), None)


def checked(house: House) -> dict[str, Any]:
    checks: list[dict[str, Any]] = json.loads(house.command("doctor", "--json", **AUTO).stdout)["checks"]
    return next(check for check in checks if check["name"] == "cluster")


async def test_first_join_of_an_unknown_cluster_is_announced_until_it_is_confirmed(
    board_house: House, lab: Lab
) -> None:
    house = board_house
    await lab.exo(None, "--campaign", "0.2")
    home = lab.host()
    daemon = started(house, home)
    announcement = (await serving(daemon))["announcement"]
    assert ANNOUNCED in announcement["sentence"]
    assert FORBIDS in announcement["hint"]
    (line,) = (line for line in daemon.text.splitlines() if ANNOUNCED in line)
    assert "WARNING" in line.upper()
    assert FORBIDS in line
    assert metric(daemon, "rkllm_cluster_unconfirmed") == 1
    check = checked(house)
    assert (check["level"], ANNOUNCED in check["fact"], FORBIDS in check["repair"]) == ("warn", True, True)
    assert ANNOUNCED in house.command("cluster").stdout

    daemon.stop()
    again = started(house, home)
    assert (await serving(again))["announcement"] == announcement, "nobody has confirmed it yet"
    assert ANNOUNCED not in again.text, "the log has it of the first time"
    assert ANNOUNCED not in house.command("cluster", "join").stdout
    assert metric(again, "rkllm_cluster_unconfirmed") == 0
    assert checked(house)["level"] == "pass"
    again.stop()
    assert (await serving(started(house, home)))["announcement"] is None


async def test_named_cluster_is_joined_without_an_announcement(house: House, lab: Lab) -> None:
    await lab.exo(None, "--campaign", "0.2")
    daemon = started(house, lab.host(), EXO_RKLLM_CLUSTER_NAMESPACE="0.3.70")
    assert (await serving(daemon))["announcement"] is None
    assert ANNOUNCED not in daemon.text


async def test_leave_takes_the_board_out_and_join_brings_it_back(board_house: House, lab: Lab) -> None:
    house = board_house
    exo = await lab.exo(None, "--campaign", "0.2")
    home = lab.host()
    daemon = started(house, home)
    node = (await serving(daemon))["node_id"]
    left = house.command("cluster", "leave")
    assert (left.returncode, LEFT in left.stdout, "exo-rkllm cluster join" in left.stdout) == (0, True, True)
    assert "leaves the exo cluster" in daemon.text
    assert node not in str((await exo.state())["instances"])
    assert sockets(home) == [], "discovery is closed"
    assert checked(house)["level"] == "pass"
    assert daemon.status()["cluster"]["phase"] == "off"
    assert house.command("cluster", "leave").returncode == 0, "twice is as once"

    daemon.stop()
    again = started(house, home)
    assert again.status()["cluster"]["sentence"] == LEFT, "a restart does not bring it back"
    assert sockets(home) == []
    joined = house.command("cluster", "join", "--json")
    assert json.loads(joined.stdout)["node_id"] == node
    await serving(again)
    again.stop()
    await serving(started(house, home))


def sockets(host: Host) -> list[str]:
    """What the daemon shows to the network: UDP of discovery, and no port of exo's."""
    return [line for line in told(host, "-Hlun") + told(host, "-Hltn") if "52413" in line or "52415" in line]


def test_leave_and_join_without_a_daemon_count_from_its_next_start(house: House) -> None:
    state = house.folder / ".local/share/exo-rkllm/cluster"
    left = house.command("cluster", "leave")
    assert (left.returncode, "From its next start on" in left.stdout, str(state) in left.stdout) == (0, True, True)
    daemon = house.start(**AUTO, EXO_RKLLM_CLUSTER_INTERFACES="lo", EXO_RKLLM_CLUSTER_DISCOVERY_PORT="52713")
    assert daemon.status()["cluster"]["phase"] == "off"
    assert LEFT in daemon.text
    daemon.stop()
    assert house.command("cluster", "join").returncode == 0
    daemon = house.start(**AUTO, EXO_RKLLM_CLUSTER_INTERFACES="lo", EXO_RKLLM_CLUSTER_DISCOVERY_PORT="52713")
    assert daemon.status()["cluster"]["phase"] == "searching"


def test_leave_that_cannot_be_remembered_says_so(house: House) -> None:
    (house.folder / ".local/share/exo-rkllm").mkdir(parents=True)
    (house.folder / ".local/share/exo-rkllm/cluster").write_text("in the way")
    alone = house.command("cluster", "leave")
    assert (alone.returncode, "cannot be written" in alone.stderr) == (1, True)
    daemon = house.start(**AUTO, EXO_RKLLM_CLUSTER_INTERFACES="lo", EXO_RKLLM_CLUSTER_DISCOVERY_PORT="52713")
    left = house.command("cluster", "leave")
    assert (left.returncode, "until the daemon ends only" in left.stderr) == (1, True)
    assert "enabled = false under [cluster]" in left.stderr
    assert daemon.status()["cluster"]["phase"] == "off", "it has left all the same"


def test_clusters_are_known_and_confirmed_by_name(tmp_path: Path) -> None:
    known = KnownClusters(tmp_path / "state")
    assert known.add("0.3.70") == (True, False)
    assert known.add("0.3.70") == (False, False)
    assert known.add("lab") == (True, False)
    assert known.add("0.3.70", confirmed=True) == (False, True)
    again = KnownClusters(tmp_path / "state")
    assert (again.add("0.3.70"), again.add("lab"), again.add("home")) == ((False, True), (False, False), (True, False))
    (tmp_path / "file").write_text("")
    assert KnownClusters(tmp_path / "file").add("0.3.70") == (True, False), "a folder that cannot be written"


async def test_sockets_of_the_default_configuration_are_those_of_the_page(board_house: House, lab: Lab) -> None:
    """docs/security.md lists every socket of a board in a cluster; once it has left, the cluster's are closed."""
    await lab.exo(None, "--campaign", "0.2")
    home = lab.host()
    board_house.words("words")
    daemon = started(board_house, home, EXO_RKLLM_API_PORT="52415")
    await serving(daemon)
    page = (REPOSITORY / "docs/security.md").read_text()
    table = page[page.index("### Sockets of the default") :].partition("\n\nThe UDP sockets")[0]
    rows = {row.split("|")[1].strip() for row in table.splitlines() if row.startswith("| ")}
    assert {
        "TCP `127.0.0.1:52415`",
        "UDP `[::]:52413`",
        "UDP `0.0.0.0:5353`",
        "outgoing TCP to ports 52400 to 52499",
    } <= rows
    own = {"127.0.0.1:52415"}
    assert {line.split()[3] for line in told(home, "-Hltn")} == own
    assert {line.split()[3] for line in told(home, "-Hlun")} == {"*:52413", "0.0.0.0:5353"}
    outgoing = [line.split() for line in told(home, "-Htn", "state", "established")]
    ports = {int(peer.rpartition(":")[2]) for *_, peer in outgoing}
    assert ports and ports <= {*range(52400, 52500), 52415}
    unix = {line.split()[4] for line in told(home, "-Hlx") if str(board_house.folder) in line}
    assert {path.rpartition("/")[2] for path in unix} == {"control.sock", "npu.sock"}
    board_house.command("cluster", "leave")
    assert {line.split()[3] for line in told(home, "-Hltn")} == own
    assert told(home, "-Hlun") == []


def told(host: Host, *words: str) -> list[str]:
    command = within(host.namespace, "ss", *words)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
