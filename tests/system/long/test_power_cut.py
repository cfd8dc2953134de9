"""The plug is pulled in the middle of something: the next boot works, and nothing half-written is used."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.hub import LocalHub, large
from tests.system.substrate import owner
from tests.system.substrate.machine import Machine
from tests.system.substrate.releases import Release
from tests.system.substrate.workshop import Workshop
from tests.system.test_1_service import UNIT, answers

FITS = "--npu-cores 2"
LIBRARY = "/usr/lib/exo-rkllm-simulator/1.3.1/librkllmrt.so"
OLDER = "/srv/share/older/exo-rkllm_arm64.deb /srv/share/older/exo-rkllm-simulator_arm64.deb"
APT = f"nohup env {owner.APT}"
BEHIND = "> /tmp/work.log 2>&1 < /dev/null & disown"
IN_LOG = "grep -q '{}' /var/log/dpkg.log"
# 60 MB at 64 KB every 20 ms: time enough to cut it anywhere.
BYTES, PAUSE = 60 << 20, 0.02
MODELS = "/var/lib/exo-rkllm/models"


@dataclass(frozen=True, slots=True)
class Point:
    """What is being done, and what can be seen on the machine when the power goes."""

    doing: str
    when: str
    seen: str


POINTS = (
    Point("install", "files are being unpacked", IN_LOG.format("status half-installed exo-rkllm:")),
    Point("install", "it is unpacked and not configured", IN_LOG.format("status unpacked exo-rkllm:")),
    Point("install", "it is being configured", IN_LOG.format("status half-configured exo-rkllm:")),
    Point("pull", "the first bytes are there", f'test -n "$(find {MODELS} -type f -size +100k)"'),
    Point("pull", "half of the bytes are there", f'test -n "$(find {MODELS} -type f -size +30M)"'),
    Point("load", "the runtime is loading it", "exo-rkllm ps | grep -q loading"),
    Point("load", "an answer is on its way", "grep -q data: /tmp/answer"),
    Point("upgrade", "the old files are being replaced", IN_LOG.format("status half-installed exo-rkllm:.* 0.0.1")),
    Point("upgrade", "the new one is unpacked", IN_LOG.format("upgrade exo-rkllm:.* 0.0.1")),
    Point("upgrade", "the new one is being configured", IN_LOG.format("^.* configure exo-rkllm:")),
)


class Hub:
    """The Hub of tests/hub.py in a thread of its own; a board reaches it through its ssh connection."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.hub = LocalHub()
        self._do(self.hub.__aenter__())

    def _do(self, work: object) -> object:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)  # type: ignore[arg-type]

    def lend(self, machine: Machine) -> None:
        for url in (self.hub.endpoint, self.hub.cdn):
            machine.lend(int(url.rpartition(":")[2]))

    def close(self) -> None:
        self._do(self.hub.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@pytest.fixture
def machine(workshop: Workshop, release: Release, request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = workshop.machine(f"{release} {request.node.name}", workshop.hardware(release, flushes=True))
    yield made
    made.discard()


def install(machine: Machine, packages: str = "exo-rkllm exo-rkllm-simulator") -> None:
    owner.apt(machine, f"install {packages}")
    machine.run(f"exo-rkllm runtime --install {LIBRARY}")


def begin_install(machine: Machine) -> None:
    machine.run(f"{APT} install exo-rkllm exo-rkllm-simulator {BEHIND}")


def begin_upgrade(machine: Machine) -> None:
    install(machine, OLDER)
    owner.add_model(machine, options=FITS)
    machine.run(f"sync; : > /var/log/dpkg.log; {APT} install exo-rkllm exo-rkllm-simulator {BEHIND}")


def begin_load(machine: Machine) -> None:
    install(machine)
    owner.add_model(machine, options=FITS)
    owner.add_model(machine, "slow", f"{FITS} --load-seconds 10 --decode-tps 4 --endless")
    machine.run(f"sync; nohup {owner.chat(model='slow')} > /tmp/answer 2>&1 < /dev/null & disown")


BEGIN: dict[str, Callable[[Machine], None]] = {"install": begin_install, "upgrade": begin_upgrade, "load": begin_load}


@pytest.mark.parametrize(
    "point", [one for one in POINTS if one.doing != "pull"], ids=lambda one: f"{one.doing}: {one.when}"
)
def test_after_a_power_cut_the_next_boot_works(machine: Machine, point: Point) -> None:
    owner.add_repository(machine)
    machine.run("sync")
    BEGIN[point.doing](machine)
    machine.until(point.when, lambda: machine.ask(point.seen).code == 0, 60)
    machine.cut()
    machine.start()
    # apt asks for the first of these; a package that was being unpacked wants the second.
    machine.run(
        "export DEBIAN_FRONTEND=noninteractive; dpkg --configure -a || true;"
        " apt-get -qq -y install exo-rkllm exo-rkllm-simulator",
        timeout=180,
    )
    assert machine.run("dpkg --audit") == ""
    if point.doing == "install":
        machine.run(f"exo-rkllm runtime --install {LIBRARY}")
        owner.add_model(machine, options=FITS)
    machine.until("serving", lambda: machine.metrics()["rkllm_serving"] == 1, 60)
    assert answers(machine)
    assert machine.show(UNIT, "ActiveState") == "active"


@pytest.mark.parametrize(
    "point", [one for one in POINTS if one.doing == "pull"], ids=lambda one: f"{one.doing}: {one.when}"
)
def test_after_a_power_cut_half_a_model_is_no_model(workshop: Workshop, release: Release, point: Point) -> None:
    hub = Hub()
    machine: Machine | None = None
    try:
        hub.hub.add("org/model-rk3588", {"model.rkllm": large(workshop.model("big", BYTES))})
        hub.hub.faults.pause = PAUSE
        machine = workshop.machine(f"{release} pull", workshop.hardware(release, flushes=True))
        owner.add_repository(machine)
        install(machine)
        pull = f"env HF_ENDPOINT={hub.hub.endpoint} exo-rkllm pull org/model-rk3588 --name big"
        hub.lend(machine)
        machine.run(f"sync; nohup {pull} {BEHIND}")
        machine.until(point.when, lambda: machine.ask(point.seen).code == 0, 60)
        machine.cut()
        machine.start()
        machine.until("the daemon answers", lambda: machine.ask("exo-rkllm ps").code == 0, 60)
        assert "big" not in machine.run("exo-rkllm models")
        assert machine.get("/v1/models")["data"] == []
        hub.lend(machine)
        hub.hub.faults.pause = 0.0
        machine.run(pull, timeout=120)
        assert answers_as(machine, "big")
    finally:
        if machine is not None:
            machine.discard()
        hub.close()


def answers_as(machine: Machine, model: str) -> bool:
    return "data: [DONE]" in machine.ask(owner.chat(model=model), timeout=60).out
