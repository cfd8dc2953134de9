"""Fixtures for every room, what the children of the tests start with, and the order of the rooms."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from exo_rkllm.runner import launch
from tests.processes import children

pytest_plugins = ["tests.simulated", "tests.boards"]

# What measures coverage in other processes, and the tests that are there for what those do: it makes the start of a
# process four times as long, and the suite starts thousands.
MEASURE = "COVERAGE_PROCESS_CONFIG"
MEASURED = ("tests/cli/", "tests/daemon/", "tests/runner/test_runner.py", "tests/top/")

# How long one example takes says more about the machine's other work than about ours.
settings.register_profile("here", deadline=None)
settings.load_profile("here")

# Minutes and half minutes come first, so that all workers end at about the same time.
FIRST = (
    "tests/test_types.py",
    "tests/simulator/test_simulator_walk.py",
    "tests/exo_cluster/test_failures.py",
    "tests/exo_cluster/test_strange_clusters.py",
    "tests/runtime/test_calls.py",
    "tests/catalogue/test_pull.py",
    "tests/catalogue/test_swapped_links.py",
    "tests/runner/test_faults.py",
    "tests/packaging/test_package.py",
    "tests/api/test_fuzz.py",
    "tests/backends/test_servers.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Before any fixture of the test starts a process."""
    with pytest.MonkeyPatch.context() as patch:
        if not item.nodeid.startswith(MEASURED):
            patch.delenv(MEASURE, raising=False)
        elif MEASURE in os.environ:
            # It begins in site-packages, which a child does without otherwise.
            patch.setattr(launch, "FLAGS", ("-I",))
        return (yield)


@pytest.fixture(scope="module", autouse=True)
def every_process_ends() -> Iterator[None]:
    """What the tests of a module start, they end."""
    before = children()
    yield
    end = time.monotonic() + 2.0
    while (left := _new(before)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left, f"still there: {left}"


def _new(before: Collection[int]) -> dict[int, str]:
    return {pid: command for pid, command in children().items() if command and pid not in before}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    rank = {config.rootpath / name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(Path(item.path), len(rank)))
