"""The load line, in every form that drivers print and in those that nobody should believe."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exo_rkllm.board.driver import parse_load
from simulator.boards_parts import load_line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"NPU load:  Core0:  0%, Core1:  0%, Core2:  0%,\n", (0, 0, 0)),
        (b"NPU load:  Core0: 65%, Core1: 70%, Core2: 100%,\n", (0.65, 0.7, 1)),
        (b"NPU load:  Core0: 38%, Core1:  4%,\n", (0.38, 0.04)),
        (b"NPU load:  0%\n", (0,)),
        (b"NPU load: 57%\n", (0.57,)),
        (b"NPU load: 100%\n", (1,)),
        (b"NPU load:  Core0: 104%, Core1:  0%, Core2:  7%,\n", (1, 0, 0.07)),
    ],
)
def test_load_line_of_the_driver_is_parsed(line: bytes, expected: tuple[float, ...]) -> None:
    assert parse_load(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"NPU load:",
        b"NPU load:  Core0: 65%, Cor",
        b"NPU load:  Core0: 65%, Core1: 7",
        b"NPU load:  Core1: 65%, Core2: 7%,",
        b"NPU load:  Core0: 12%, Core0: 12%, Core2: 1%,",
        b"Core0: 12",
        b"RKNPU driver: v0.9.8\n",
        bytes(range(256)),
    ],
)
def test_partial_load_line_is_unknown(line: bytes) -> None:
    assert parse_load(line) is None


@given(st.lists(st.integers(0, 100), min_size=1, max_size=16))
def test_printed_load_is_parsed_back(percent: list[int]) -> None:
    assert parse_load(load_line(percent)) == tuple(value / 100 for value in percent)


@given(st.binary(max_size=400))
@example(b"NPU load: \xff%")
@example(b"NPU load: 99999999999999999999%")
def test_arbitrary_bytes_never_raise(line: bytes) -> None:
    found = parse_load(line)
    assert found is None or all(0 <= value <= 1 for value in found)


@given(st.lists(st.integers(0, 999), min_size=2, max_size=4), st.data())
def test_cut_load_line_never_invents_a_core(percent: list[int], data: st.DataObject) -> None:
    line = load_line(percent)
    cut = line[: data.draw(st.integers(0, len(line) - 2))]
    found = parse_load(cut)
    assert found is None or len(found) <= len(percent)
