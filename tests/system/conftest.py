"""Fixtures: a workshop that makes what the tests stand on, a container, a board, and the table of step times."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.system.substrate import host, owner
from tests.system.substrate.container import Container
from tests.system.substrate.machine import Machine
from tests.system.substrate.releases import RELEASES, Release
from tests.system.substrate.steps import Steps
from tests.system.substrate.workshop import Workshop

IN_CONTAINERS = {"container", "served"}
STEPS = pytest.StashKey[Steps]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STEPS] = Steps()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with item.config.stash[STEPS].step(f"test {item.name}"):
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.section("steps: began, took (seconds)")
    for line in config.stash[STEPS].table():
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def steps(pytestconfig: pytest.Config) -> Steps:
    return pytestconfig.stash[STEPS]


@pytest.fixture(scope="session")
def workshop(
    request: pytest.FixtureRequest, steps: Steps, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workshop]:
    """Begins at once with what will be needed: containers first, and boards while those are being tested."""
    if os.geteuid() != 0:
        raise host.Broken("containers and mounts are root's: sudo make system-test")
    made = Workshop(tmp_path_factory.mktemp("workshop"), steps)
    try:
        made.packages()
        chosen = [item for item in request.session.items if isinstance(item, pytest.Function)]
        for release in RELEASES:
            if any(release.name in item.name for item in chosen):
                made.amd64(release)
        for release in RELEASES:
            if any(release.name in item.name and not IN_CONTAINERS.intersection(item.fixturenames) for item in chosen):
                made.prepare(release)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session", params=RELEASES, ids=str)
def release(request: pytest.FixtureRequest) -> Release:
    found: Release = request.param
    return found


@pytest.fixture
def container(workshop: Workshop, release: Release) -> Iterator[Container]:
    """A pristine Debian, booted."""
    made = workshop.container(release)
    yield made
    made.stop()


@dataclass(frozen=True, slots=True)
class Served:
    """A container in which an owner has come as far as the first answer."""

    container: Container
    first_answer: str
    seconds: float  # from `apt install` to the end of that answer


@pytest.fixture(scope="session")
def served(workshop: Workshop, release: Release, steps: Steps) -> Iterator[Served]:
    container = workshop.container(release)
    try:
        owner.add_repository(container)
        began = time.monotonic()
        with steps.step(f"{release} container: from apt install to an answer"):
            owner.apt(container, "install exo-rkllm exo-rkllm-simulator")
            container.run("exo-rkllm-simulator use && systemctl restart exo-rkllm")
            owner.add_model(container)
            answer = container.run(owner.chat())
        took = time.monotonic() - began
        container.run("useradd --create-home --groups exo-rkllm member && useradd --create-home outsider")
        yield Served(container, answer, took)
    finally:
        container.stop()


@pytest.fixture
def drop_in(request: pytest.FixtureRequest) -> Iterator[Callable[[Container, str], None]]:
    """Another setting of the unit, for one test: `drop_in(container, "WatchdogSec=2")`, then restart it."""
    folder = "/run/systemd/system/exo-rkllm.service.d"
    changed: list[Container] = []

    def set_(computer: Container, line: str) -> None:
        changed.append(computer)
        computer.run(
            f"mkdir -p {folder} && cat > {folder}/test.conf && systemctl daemon-reload", stdin=f"[Service]\n{line}\n"
        )

    yield set_
    for computer in changed:
        computer.run(f"rm -r {folder} && systemctl daemon-reload && systemctl restart exo-rkllm")


@dataclass(frozen=True, slots=True)
class Onboard:
    """A virtual Orange Pi 5 Plus on which the package was just installed."""

    machine: Machine
    nodes_before: str  # `ls -l` of the device nodes when only Debian was there


@pytest.fixture(scope="session")
def onboard(workshop: Workshop, release: Release, steps: Steps) -> Iterator[Onboard]:
    machine = workshop.machine(f"{release} board", workshop.hardware(release))
    try:
        nodes = machine.run("ls -l /dev/rknpu /dev/dri/card0 /dev/dri/renderD128")
        owner.add_repository(machine)
        with steps.step(f"{release} board: apt install"):
            owner.apt(machine, "install exo-rkllm exo-rkllm-simulator")
        yield Onboard(machine, nodes)
    finally:
        machine.discard()
