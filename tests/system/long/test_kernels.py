"""The package under kernels that are newer than their release."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.substrate import owner
from tests.system.substrate.machine import Machine
from tests.system.substrate.releases import NEWER_KERNELS
from tests.system.substrate.workshop import Workshop
from tests.system.test_1_service import UNIT, answers
from tests.system.test_4_board import FITS, LIBRARY, utilization


@pytest.fixture(params=NEWER_KERNELS, ids=str)
def machine(request: pytest.FixtureRequest, workshop: Workshop) -> Iterator[Machine]:
    made = workshop.machine(f"{request.param} board", workshop.hardware(request.param))
    yield made
    made.discard()


def test_counters_and_answers_come_and_go_with_the_driver(machine: Machine) -> None:
    owner.add_repository(machine)
    owner.apt(machine, "install exo-rkllm exo-rkllm-simulator")
    machine.run(f"exo-rkllm runtime --install {LIBRARY}")
    owner.add_model(machine, options=FITS)
    assert answers(machine)
    assert len(utilization(machine)) == 3
    pid = machine.show(UNIT, "MainPID")
    machine.run("modprobe -r rknpu")
    machine.until("the daemon's notice", lambda: machine.metrics()["rkllm_serving"] == 0)
    assert utilization(machine) == []
    machine.run("modprobe rknpu; udevadm settle")
    machine.until("an answer", lambda: answers(machine))
    machine.until("counters", lambda: len(utilization(machine)) == 3)
    assert machine.show(UNIT, "MainPID") == pid
