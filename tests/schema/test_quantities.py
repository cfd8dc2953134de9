"""Durations and sizes are read by one parser each, whoever sends them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_rkllm.schema.quantities import Bytes, Seconds
from exo_rkllm.schema.specs import FieldError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (90, 90.0), (1.5, 1.5), ("90", 90.0), ("90s", 90.0), ("5m", 300.0), ("1.5h", 5400.0), ("1h30m", 5400.0),
        ("1d", 86400.0), ("1d 12h", 129600.0), (" 5 m ", 300.0), ("-1", -1.0), ("-1m30s", -90.0), ("+2s", 2.0),
        ("-1s", -1.0), ("100ms", 0.1), ("250us", 0.00025), ("250µs", 0.00025), ("1000000000ns", 1.0), ("0", 0.0),
        (".5h", 1800.0),
    ],
)  # fmt: skip
def test_durations_are_read_in_every_form(value: object, seconds: float) -> None:
    assert Seconds().check(value, "x") == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", ["", "soon", "m5", "5 parsecs", "1h30", "1 2", "--1", "1e5", "nan", "٣s", "9" * 65, True, []]
)
def test_other_texts_are_no_durations(value: object) -> None:
    with pytest.raises(FieldError, match="x must be seconds or a duration such as 90s, 1h30m or 1d, not "):
        Seconds().check(value, "x")


@pytest.mark.parametrize(
    ("value", "size"),
    [(7, 7), ("7", 7), ("256MB", 256 * 10**6), ("1GiB", 1 << 30), ("1.5 kB", 1500), ("1KiB 24B", 1048), (2**62, 2**62)],
)
def test_sizes_are_read_in_every_form(value: object, size: int) -> None:
    assert Bytes().check(value, "x") == size


@pytest.mark.parametrize("value", ["", "1 gallon", "1gib", False, None])
def test_other_texts_are_no_sizes(value: object) -> None:
    with pytest.raises(FieldError, match="x must be bytes or a size such as 256MB or 1GiB, not "):
        Bytes().check(value, "x")


def test_quantities_beyond_their_limits_are_refused() -> None:
    with pytest.raises(FieldError, match=r"x must be 1 or more, not 0\.0\."):
        Seconds(low=1).check("0s", "x")
    with pytest.raises(FieldError, match=r"x must be 0 or more, not -1\."):
        Bytes().check("-1", "x")


@given(st.floats(-10, 1e6) | st.integers(0, 1 << 40).map(float))
def test_written_duration_is_read_again(value: float) -> None:
    assert Seconds().check(Seconds().written(value), "x") == value


@given(st.integers(0, 1 << 62))
def test_written_size_is_read_again(value: int) -> None:
    assert Bytes().check(Bytes().written(value), "x") == value
