"""The board's tests stand on a root whose arm64 maintainer scripts never ran; this one's did, under qemu-user."""

from __future__ import annotations

from tests.system.substrate import owner
from tests.system.substrate.releases import Release
from tests.system.substrate.workshop import Workshop
from tests.system.test_1_service import UNIT, answers
from tests.system.test_4_board import FITS, LIBRARY, utilization


def test_a_genuinely_configured_debian_serves_the_same(workshop: Workshop, release: Release) -> None:
    machine = workshop.machine(f"{release} configured board", workshop.hardware(release, configured=True))
    try:
        assert machine.run("systemctl is-system-running").strip() == "running"
        assert machine.run("dpkg --audit") == ""
        owner.add_repository(machine)
        owner.apt(machine, "install exo-rkllm exo-rkllm-simulator")
        machine.run(f"exo-rkllm runtime --install {LIBRARY}")
        owner.add_model(machine, options=FITS)
        assert answers(machine)
        assert len(utilization(machine)) == 3
        machine.run("echo exo-rkllm exo-rkllm/purge-models boolean true | debconf-set-selections")
        owner.apt(machine, "purge exo-rkllm exo-rkllm-simulator")
        assert machine.ask(f"systemctl cat {UNIT}").code != 0
    finally:
        machine.discard()
