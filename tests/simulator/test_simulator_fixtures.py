"""The fixtures that every other room leans on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulated import REFUSED, VERSIONS, Library


@pytest.mark.parametrize("version", [*VERSIONS, *REFUSED])
def test_every_version_is_built(library: Library, version: str) -> None:
    text = f"RKLLM SDK (version: {version} | target: Linux | build: simulator)".encode()
    assert text in library(version).read_bytes()


def test_a_model_file_ends_with_its_toolkit(make_model: Callable[..., Path]) -> None:
    path = make_model(toolkit="1.2.3", file="a.rkllm")
    assert path.name == "a.rkllm"
    assert path.read_bytes().endswith(b"rkllm-toolkit version: 1.2.3")
    assert path.stat().st_size > 1 << 20
