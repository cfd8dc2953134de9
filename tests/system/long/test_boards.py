"""The installed package on several boards: one disk, booted with one device tree after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.system.substrate import devicetree, owner
from tests.system.substrate.machine import Hardware, Machine
from tests.system.substrate.releases import Release
from tests.system.substrate.workshop import MEGABYTES, PROCESSORS, Workshop
from tests.system.test_1_service import UNIT


@pytest.fixture(scope="session")
def installed_disk(workshop: Workshop, release: Release) -> Iterator[Hardware]:
    """A disk on which the package was installed, with a board switched off."""
    machine = workshop.machine(f"{release} board to install on", workshop.hardware(release))
    try:
        owner.add_repository(machine)
        owner.apt(machine, "install exo-rkllm")
        yield machine.switch_off()
    finally:
        machine.discard()


@pytest.fixture(params=devicetree.TABLE, ids=str)
def board(
    request: pytest.FixtureRequest, workshop: Workshop, release: Release, installed_disk: Hardware
) -> Iterator[tuple[devicetree.Board, Machine]]:
    wanted = devicetree.TABLE[request.param]
    tree = devicetree.write(wanted, workshop.folder, processors=PROCESSORS, megabytes=MEGABYTES)
    machine = workshop.machine(f"{release} {request.param}", replace(installed_disk, tree=tree))
    yield wanted, machine
    machine.discard()


def test_a_board_is_what_its_tree_says(board: tuple[devicetree.Board, Machine]) -> None:
    wanted, machine = board
    said = json.loads(machine.run("exo-rkllm board --json"))
    assert said["model"] == wanted.model
    assert tuple(said["compatible"]) == wanted.compatible
    assert said["state"] == wanted.state
    assert machine.show(UNIT, "ActiveState") == "active"
    assert machine.metrics()[f'rknpu_state{{state="{wanted.state}"}}'] == 1
    assert machine.metrics()["rknpu_up"] == (wanted.state == "vendor_ready")
    if wanted.state == "vendor_ready":
        assert said["npu"]["cores"] == wanted.cores
        assert machine.metrics()[f'rknpu_cores{{device="{wanted.device}"}}'] == wanted.cores
    else:
        assert said["sentence"] in machine.show(UNIT, "StatusText"), "the status does not say what is missing"
        assert said["hint"]
