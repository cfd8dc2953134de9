"""Fixtures for every room: the simulated runtime, boards and models of tests/simulated.py."""

pytest_plugins = ["tests.simulated", "tests.boards"]
