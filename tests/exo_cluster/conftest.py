"""Fixtures of the cluster's tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from tests.exo_cluster.lab import Lab, why_not

NO_CRATE = "exo_libp2p is not built: install cargo 1.85 or newer and run tools/setup test"


@pytest.fixture(scope="session")
def namespaces() -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture
async def lab(namespaces: None, request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    """`libp2p` as a parameter makes its exo nodes those of release 1.0.71."""
    released = getattr(request, "param", "zenoh") == "libp2p"
    if released:
        pytest.importorskip("exo_libp2p", reason=NO_CRATE)
    async with Lab(released=released) as made:
        yield made
        print(made.story())


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: takes minutes; run with TESTS_LONG=1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TESTS_LONG"):
        return
    skip = pytest.mark.skip(reason="takes long: set TESTS_LONG=1 to run it")
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(skip)
