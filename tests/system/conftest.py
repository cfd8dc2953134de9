"""Fixtures: a workshop that makes what the tests stand on, a container, a board, and the table of step times."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.system.substrate import container as containers
from tests.system.substrate import host, owner
from tests.system.substrate.container import Container
from tests.system.substrate.releases import RELEASES, Release
from tests.system.substrate.steps import Steps
from tests.system.substrate.workshop import Onboard, Workshop

STEPS = pytest.StashKey[Steps]()
OF_WORKERS = pytest.StashKey[list[str]]()
# A test of a folder's container needs no board to be prepared meanwhile.
IN_CONTAINERS = {"container", "served"}


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STEPS] = Steps()
    config.stash[OF_WORKERS] = []


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With xdist a worker has a release to itself, since that release's tests share a container and a board."""
    from xdist.scheduler import LoadScopeScheduling

    class ByRelease(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return next((release.name for release in RELEASES if f"[{release}" in nodeid), "others")

    return ByRelease(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with item.config.stash[STEPS].step(f"test {item.name}"):
        return (yield)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells its times to the process that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["steps"] = list(session.config.stash[STEPS].table())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[OF_WORKERS].extend(getattr(node, "workeroutput", {}).get("steps", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.section("steps: began, took (seconds)")
    for line in sorted(
        [*config.stash[STEPS].table(), *config.stash[OF_WORKERS]], key=lambda line: float(line.split()[0])
    ):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def steps(pytestconfig: pytest.Config) -> Steps:
    return pytestconfig.stash[STEPS]


@pytest.fixture(scope="session")
def workshop(steps: Steps, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    if os.geteuid() != 0:
        raise host.Broken("containers and mounts are root's: sudo make system-test")
    containers.sweep()
    made = Workshop(tmp_path_factory.mktemp("workshop"), steps)
    try:
        made.packages()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def prepared(request: pytest.FixtureRequest, workshop: Workshop, release: Release) -> Workshop:
    """What this release's tests will need is begun: what containers need first, and boards while those are tested."""
    workshop.amd64(release)
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and str(release) in item.name]
    if any("onboard" in item.fixturenames for item in items):
        workshop.onboard(release)
    elif any(not IN_CONTAINERS.intersection(item.fixturenames) for item in items):
        workshop.prepare(release)
    return workshop


@pytest.fixture(scope="session", params=RELEASES, ids=str)
def release(request: pytest.FixtureRequest) -> Release:
    found: Release = request.param
    return found


@pytest.fixture(scope="module", autouse=True)
def every_process_ends() -> None:
    """Not with the module: a board boots while the tests of other modules run, and serves them all."""


@pytest.fixture
def container(prepared: Workshop, release: Release) -> Iterator[Container]:
    """A pristine Debian, booted."""
    made = prepared.container(release)
    yield made
    made.stop()


@dataclass(frozen=True, slots=True)
class Served:
    """A container in which an owner has come as far as the first answer."""

    container: Container
    first_answer: str
    seconds: float  # from `apt install` to the end of that answer


@pytest.fixture(scope="session")
def served(prepared: Workshop, release: Release, steps: Steps) -> Iterator[Served]:
    container = prepared.container(release)
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


@pytest.fixture(scope="session")
def onboard(prepared: Workshop, release: Release) -> Iterator[Onboard]:
    """It was begun with the first test of this release."""
    found = prepared.onboard(release).result()
    yield found
    found.machine.discard()
