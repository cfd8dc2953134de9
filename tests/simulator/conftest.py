"""The library under test, by version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulated import VERSIONS, Library
from tests.simulator.raw import Runtime


@pytest.fixture
def load(library: Library, board_root: Path) -> Callable[[str], Runtime]:
    """`load("1.3.0")` is that runtime, loaded into this process, on an RK3588 board."""
    return lambda version: Runtime(library(version), version)


@pytest.fixture(params=VERSIONS)
def runtime(request: pytest.FixtureRequest, load: Callable[[str], Runtime]) -> Runtime:
    """Every version in turn."""
    return load(request.param)


@pytest.fixture(params=[version for version in VERSIONS if version != "1.1.4"])
def modern(request: pytest.FixtureRequest, load: Callable[[str], Runtime]) -> Runtime:
    """Every version that has history and prefix reuse."""
    return load(request.param)


@pytest.fixture
def newest(load: Callable[[str], Runtime]) -> Runtime:
    return load("1.3.1")
