"""Boards as the status tells them: what is not known is null and has its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from exo_rkllm.api.status import board_value
from exo_rkllm.board import counters, sources
from exo_rkllm.board.detect import detect


def told(root: Path) -> dict[str, object]:
    board = detect(root)
    value = board_value(board, counters.read(sources.find_sources(root, board)))
    return json.loads(json.dumps(value))  # type: ignore[no-any-return]


def test_working_board_reports_every_reading(board: Callable[[str], Path]) -> None:
    value = told(board("rk3588-busy"))
    assert value["title"] and value["soc"] == "RK3588"
    assert value["load"] is not None and len(value["load"]) == 3  # type: ignore[arg-type]
    assert isinstance(value["clock"], dict) and value["clock"]["hertz"] > 0
    assert isinstance(value["celsius"], float)


@pytest.mark.parametrize("name", ["debugfs-unreadable", "container-masked"])
def test_unreadable_values_are_null_with_a_reason(board: Callable[[str], Path], name: str) -> None:
    value = told(board(name))
    assert value["load"] is None
    assert isinstance(value["absent"], dict) and value["absent"]["load"]
