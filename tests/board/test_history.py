"""An hour of samples: means of five seconds, gaps where nobody looked, and no more than an hour."""

from __future__ import annotations

import pytest

from exo_rkllm.board.history import POINTS, SPACING, History, HistoryPoint


class Machine:
    def __init__(self) -> None:
        self.now, self.tokens, self.celsius = 1000.0, 0.0, 50.0
        self.history = History(lambda: self.tokens, lambda: self.celsius, lambda: self.now)

    def run(self, seconds: int, load: tuple[float, ...] | None, speed: float = 0) -> None:
        for _ in range(seconds):
            self.now += 1
            self.tokens += speed
            self.history.add(load)


def test_point_is_the_mean_of_its_interval() -> None:
    machine = Machine()
    machine.history.add((0.0, 0.0))
    machine.run(4, (0.5, 1.0), speed=10)
    machine.run(1, (0.0, 0.0), speed=10)
    load = (pytest.approx(2.0 / 6), pytest.approx(4.0 / 6))
    assert machine.history.points() == (HistoryPoint(1005.0, load, pytest.approx(10.0), 50.0),)  # type: ignore[arg-type]


def test_time_without_samples_is_a_gap() -> None:
    machine = Machine()
    machine.history.add((1.0,))
    machine.run(3, (1.0,))
    machine.now += 600
    machine.tokens += 600
    machine.history.add((0.2,))
    machine.run(5, (0.2,))
    (point,) = machine.history.points()
    assert point.time == 1608.0
    assert point.load == pytest.approx((0.2,))
    assert point.tokens == 0.0


def test_unreadable_load_is_none_and_a_clock_set_back_begins_anew() -> None:
    machine = Machine()
    machine.history.add(None)
    machine.run(5, None)
    machine.now -= 3000
    machine.run(6, (1.0,))
    assert [point.load for point in machine.history.points()] == [None, (1.0,)]


def test_no_more_than_an_hour_is_kept() -> None:
    machine = Machine()
    machine.run(4000, (0.5,))
    assert len(machine.history.points()) == pytest.approx(POINTS, abs=1)
    machine.now += SPACING * POINTS - 100
    assert machine.history.points()[0].time == pytest.approx(machine.now - SPACING * POINTS, abs=SPACING)
