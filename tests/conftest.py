"""Fixtures for every room: the simulated runtime, boards and models of tests/simulated.py."""

import os

from exo_rkllm.runner import parent

pytest_plugins = ["tests.simulated", "tests.boards"]

# What measures coverage begins in site-packages, which a child does without otherwise.
if "COVERAGE_PROCESS_CONFIG" in os.environ:
    parent.FLAGS = ("-I",)
