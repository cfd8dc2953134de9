"""`[board] performance`: higher clocks while a model is loaded, and never because of it a load that fails."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clocks.unit import Unit, everything, governors
from tests.daemon.running import House


@pytest.fixture
def unit(board_house: House, tmp_path: Path) -> Iterator[Unit]:
    """Where a daemon on this board looks for it."""
    root = Path(board_house.environment["EXO_RKLLM_BOARD_ROOT"])
    (root / "run").mkdir(exist_ok=True)
    folder = tmp_path / "runtime"
    folder.mkdir()
    unit = Unit(root, folder, root / "run/exo-rkllm-clocks.sock")
    yield unit
    unit.close()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_clocks_follow_the_models(board_house: House, unit: Unit) -> None:
    before = everything(unit.root)
    words = board_house.words()
    daemon = board_house.start(EXO_RKLLM_BOARD_PERFORMANCE="true")
    assert everything(unit.root) == before
    unit.start()
    daemon.client.post("/control/load", model=words)
    until(lambda: set(governors(unit.root).values()) == {"performance"})
    until(lambda: "Clocks are up: fdab0000.npu, dmc" in daemon.text)
    daemon.client.post("/control/unload", model=words)
    until(lambda: everything(unit.root) == before)
    assert unit.end()[0] == 0


def test_a_daemon_that_is_killed_leaves_no_high_clocks(board_house: House, unit: Unit) -> None:
    before = everything(unit.root)
    words = board_house.words()
    daemon = board_house.start(EXO_RKLLM_BOARD_PERFORMANCE="true")
    unit.start()  # not earlier: it ends where nobody connects for two seconds, and here no systemd starts it again
    daemon.client.post("/control/load", model=words)
    until(lambda: set(governors(unit.root).values()) == {"performance"})
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    until(lambda: everything(unit.root) == before)


def test_missing_clocks_unit_is_logged_once_and_models_load(board_house: House) -> None:
    words = board_house.words()
    daemon = board_house.start(EXO_RKLLM_BOARD_PERFORMANCE="true")
    daemon.client.post("/control/load", model=words)
    assert daemon.answer(words, "hello there") != ""
    until(lambda: "exo-rkllm-clocks.socket" in daemon.text)
    assert daemon.text.count("the unit that does it is not enabled") == 1


def test_clocks_stay_as_they_are_by_default(board_house: House, unit: Unit) -> None:
    before = everything(unit.root)
    words = board_house.words()
    daemon = board_house.start()
    daemon.client.post("/control/load", model=words)
    assert daemon.answer(words, "hello there") != ""
    assert everything(unit.root) == before
    assert daemon.status()["npu"]["load"] == [0.0, 0.0, 0.0]
