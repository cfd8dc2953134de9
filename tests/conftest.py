"""Fixtures for every room, what the children of the tests start with, and the order of the rooms."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from exo_rkllm.runner import parent

pytest_plugins = ["tests.simulated", "tests.boards"]

# What measures coverage begins in site-packages, which a child does without otherwise.
if "COVERAGE_PROCESS_CONFIG" in os.environ:
    parent.FLAGS = ("-I",)

# How long one example takes says more about the machine's other work than about ours.
settings.register_profile("here", deadline=None)
settings.load_profile("here")

# Minutes and half minutes come first, so that two workers end at about the same time.
FIRST = (
    "tests/test_types.py",
    "tests/simulator/test_simulator_walk.py",
    "tests/exo_cluster/test_failures.py",
    "tests/exo_cluster/test_strange_clusters.py",
    "tests/runtime/test_calls.py",
    "tests/catalogue/test_pull.py",
    "tests/runner/test_faults.py",
    "tests/packaging/test_package.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    rank = {config.rootpath / name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(Path(item.path), len(rank)))
