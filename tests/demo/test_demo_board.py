"""The demo's board: its figures follow the daemon's answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from exo_rkllm.board.counters import Reading, read
from exo_rkllm.board.detect import detect
from exo_rkllm.board.sources import find_sources
from tests.daemon.running import House
from tools.demo_board import DemoBoard, follows


def test_load_clock_heat_power_and_memory_follow_the_answers(board: Callable[[str], Path]) -> None:
    root, now = board("orangepi-5-plus"), [100.0]

    def reading() -> Reading:
        return read(find_sources(root, detect(root)))

    demo = DemoBoard(root, lambda: now[0])
    demo.set(busy=False, memory=0)
    idle = reading()
    assert (idle.load, idle.powered) == ((0.0, 0.0, 0.0), False)
    demo.set(busy=True, memory=1 << 30)
    for _ in range(20):
        now[0] += 0.5
        demo.tick()
    busy = reading()
    assert busy.load is not None
    assert all(0.5 < part < 0.9 for part in busy.load)
    assert busy.powered
    assert busy.clock is not None
    assert idle.clock is not None
    assert busy.clock.hertz > idle.clock.hertz
    assert (busy.celsius or 0) > (idle.celsius or 0) + 5
    assert (idle.memory_available or 0) - (busy.memory_available or 0) == 1 << 30
    demo.set(busy=False, memory=0)
    assert (reading().load, reading().powered) == ((0.0, 0.0, 0.0), True)
    now[0] += 4
    demo.tick()
    assert reading().powered is False


def test_no_core_is_idle_beside_a_running_answer(board_house: House) -> None:
    board_house.words(tokens_per_second=30)
    demo = DemoBoard(Path(board_house.environment["EXO_RKLLM_BOARD_ROOT"]))
    demo.set(busy=False, memory=0)
    daemon = board_house.start()

    def load() -> list[float]:
        return list(daemon.status()["npu"]["load"])

    with follows(demo, daemon.client):
        assert load() == [0, 0, 0]
        answer = daemon.ask("words", "word " * 40)
        for _ in range(3):
            next(answer)
        deadline = time.monotonic() + 5
        while not all(load()):
            assert time.monotonic() < deadline
        assert sum("text" in event for event in answer) > 20
        deadline = time.monotonic() + 5
        while any(load()):
            assert time.monotonic() < deadline
