"""What the service cannot do, each tried from inside its own sandbox: a probe that its unit starts beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import Served
from tests.system.substrate import probe_unit

REFUSED = ("EPERM", "EACCES", "ENOENT", "EROFS", "EAFNOSUPPORT", "ESRCH", "ENODEV", "ENXIO", "EINVAL")
OWN = ("/run/exo-rkllm", "/var/lib/exo-rkllm")
# Empty ones of its own, that go with it.
PRIVATE = ("/tmp", "/var/tmp", "/dev/shm")
HARMLESS = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx"}
# In a container there is no debugfs: test_4_board.py has that one.
ATTEMPTS = [name for name in probe_unit.names() if name != "read root's debugfs"]


@pytest.fixture(scope="module")
def report(served: Served) -> Mapping[str, Any]:
    probe_unit.put(served.container, walk=True)
    served.container.run("systemctl daemon-reload")
    found = probe_unit.report(served.container)
    served.container.run(f"rm {probe_unit.DROP_IN} && systemctl daemon-reload")
    return found


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_the_service_cannot(report: Mapping[str, Any], attempt: str) -> None:
    assert report["attempts"][attempt] in REFUSED


def test_the_probe_was_where_the_service_is(report: Mapping[str, Any]) -> None:
    """A refusal outside the sandbox would prove nothing."""
    assert report["status"]["Seccomp"].strip() == "2"
    assert report["status"]["CapBnd"].strip().strip("0") == ""


def test_it_can_write_into_its_own_folders_only(report: Mapping[str, Any]) -> None:
    places = [Path(folder) for folder in report["writable"]]
    own = [Path(folder) for folder in OWN + PRIVATE]
    assert set(map(Path, OWN)) <= set(places)
    assert [str(place) for place in places if not any(place.is_relative_to(folder) for folder in own)] == []


def test_no_other_device_opens(report: Mapping[str, Any]) -> None:
    opened = {path for path, end in report["devices"].items() if end == "done"}
    assert opened <= HARMLESS
    assert "/dev/null" in opened


def test_outside_the_sandbox_the_same_attempts_succeed(served: Served) -> None:
    """As root and unfiltered: otherwise the container, not the unit, would be what refuses."""
    free = json.loads(served.container.run(probe_unit.FREE))
    for attempt in (
        "make a mount namespace",
        "mount",
        "read passwords",
        "see other processes",
        "make a set-user-id program",
    ):
        assert free["attempts"][attempt] == "done"
