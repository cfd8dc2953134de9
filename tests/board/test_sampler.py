"""Busy seconds: right at any scrape interval, and no wake-up while the NPU is off and nobody looks."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_rkllm.board.detect import detect
from exo_rkllm.board.sampler import NpuLoad, Sampler, integrate, should_sample
from exo_rkllm.board.sources import find_sources
from simulator.boards_parts import load_line

Build = Callable[[str], Path]


# ── decisions ────────────────────────────────────────────────────────────────────────────────────


def test_first_sample_counts_one_second() -> None:
    assert integrate(NpuLoad(), (0.5, 1.0), 100.0).seconds == (0.5, 1.0)


def test_late_sample_counts_the_whole_time() -> None:
    busy = integrate(integrate(NpuLoad(), (0.5,), 100.0), (0.5,), 101.4)
    assert busy.seconds[0] == pytest.approx(0.5 + 0.7)


def test_long_gap_counts_one_second_only() -> None:
    busy = integrate(integrate(NpuLoad(), (1.0,), 100.0), (1.0,), 400.0)
    assert busy.seconds == (2.0,)


def test_scrape_between_two_samples_counts_nothing_twice() -> None:
    busy = NpuLoad()
    for now in (100.0, 100.3, 101.0, 101.9, 102.0):
        busy = integrate(busy, (1.0,), now)
    assert busy.seconds[0] == pytest.approx(3.0)


def test_unreadable_load_leaves_the_counter_unchanged() -> None:
    busy = integrate(integrate(integrate(NpuLoad(), (1.0,), 1.0), None, 2.0), (1.0,), 3.0)
    assert busy.seconds == (2.0,)
    assert integrate(busy, None, 4.0).load is None


def test_core_that_appears_later_starts_at_zero() -> None:
    busy = integrate(integrate(NpuLoad(), (1.0, 1.0), 1.0), (1.0, 1.0, 0.25), 2.0)
    assert busy.seconds == (2.0, 2.0, 0.25)
    assert integrate(busy, (1.0,), 3.0).seconds == (3.0, 2.0, 0.25)


@given(st.lists(st.tuples(st.floats(0.05, 2.4), st.floats(0, 1)), min_size=1, max_size=60))
def test_counter_never_falls_and_never_outruns_the_clock(steps: list[tuple[float, float]]) -> None:
    busy, now, before = NpuLoad(), 0.0, 0.0
    for elapsed, load in steps:
        now += elapsed
        busy = integrate(busy, (load,), now)
        assert before <= busy.seconds[0] <= now + 1.0
        before = busy.seconds[0]


@pytest.mark.parametrize(
    ("powered", "watchers", "until", "expected"),
    [
        (True, 0, 0, True),
        (False, 0, 0, False),
        (None, 0, 0, False),
        (False, 1, 0, True),
        (False, 0, 11, True),
        (None, 0, 11, True),
    ],
)
def test_sampler_stays_awake_for_power_watchers_and_interest(
    powered: bool | None, watchers: int, until: float, expected: bool
) -> None:
    assert should_sample(powered=powered, watchers=watchers, interest_until=until, now=10.0) is expected


# ── on a loop whose clock jumps ──────────────────────────────────────────────────────────────────


class JumpingSelector(selectors.SelectSelector):
    """Waits by moving the clock, so that a minute passes at once."""

    now = 1000.0
    waits = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing would ever happen again"
            self.waits += timeout > 0
            self.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.selector = JumpingSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


@pytest.fixture
def loop() -> Iterator[JumpingLoop]:
    loop = JumpingLoop()
    yield loop
    loop.close()


class LiveBoard:
    """A board whose NPU is switched and loaded by the test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sources = find_sources(root, detect(root))

    def set(self, percent: list[int], *, powered: bool) -> None:
        for name, data in (
            ("sys/kernel/debug/rknpu/load", load_line(percent)),
            ("sys/devices/platform/fdab0000.npu/power/runtime_status", b"active\n" if powered else b"suspended\n"),
        ):
            path = self.root / name
            path.chmod(0o644)
            path.write_bytes(data)


@pytest.fixture
def live(board: Build) -> LiveBoard:
    return LiveBoard(board("orangepi-5-plus"))


def run(loop: JumpingLoop, seconds: float) -> None:
    loop.run_until_complete(asyncio.sleep(seconds))


def test_minute_of_work_is_a_minute_of_busy_seconds(live: LiveBoard, loop: JumpingLoop) -> None:
    sampler = Sampler(lambda: live.sources, loop)
    live.set([50, 100, 0], powered=True)
    sampler.touch()
    run(loop, 60.0)
    assert sampler.busy().seconds == pytest.approx((30.5, 61, 0), abs=1.1)


def test_sampler_sleeps_with_the_npu_and_does_not_wake_again(live: LiveBoard, loop: JumpingLoop) -> None:
    sampler = Sampler(lambda: live.sources, loop)
    live.set([50, 50, 50], powered=True)
    sampler.touch()
    run(loop, 20.0)
    assert not sampler.sleeping
    live.set([0, 0, 0], powered=False)
    run(loop, 2.0)
    assert sampler.sleeping
    before = loop.selector.waits
    run(loop, 3600.0)
    assert loop.selector.waits - before == 1, "only the test's own timer"


def test_touch_wakes_the_sampler_for_a_moment(live: LiveBoard, loop: JumpingLoop) -> None:
    sampler = Sampler(lambda: live.sources, loop)
    assert sampler.sleeping
    sampler.touch()
    assert not sampler.sleeping
    run(loop, 3.0)
    assert not sampler.sleeping
    run(loop, 5.0)
    assert sampler.sleeping


def test_watcher_keeps_the_sampler_awake(live: LiveBoard, loop: JumpingLoop) -> None:
    sampler = Sampler(lambda: live.sources, loop)
    with sampler.watch():
        run(loop, 100.0)
        assert not sampler.sleeping
    run(loop, 2.0)
    assert sampler.sleeping


def test_close_ends_the_sampler(live: LiveBoard, loop: JumpingLoop) -> None:
    sampler = Sampler(lambda: live.sources, loop)
    sampler.touch()
    sampler.close()
    assert sampler.sleeping
    sampler.close()


def test_board_without_readable_load_has_no_counter(board: Build, loop: JumpingLoop) -> None:
    live = LiveBoard(board("rk3588s-mainline"))
    sampler = Sampler(lambda: live.sources, loop)
    sampler.touch()
    run(loop, 3.0)
    assert sampler.busy().seconds == ()
