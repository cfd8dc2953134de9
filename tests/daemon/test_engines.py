"""Which engine loads what, what it takes, and what is in its way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from exo_rkllm.backends.dummy import DummyModel
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.registry import EngineRegistry
from exo_rkllm.backends.rkllm import RkllmFile
from exo_rkllm.board.detect import detect
from exo_rkllm.catalogue.card import parse
from exo_rkllm.catalogue.store import Entry
from exo_rkllm.config import Config
from exo_rkllm.daemon import engines
from exo_rkllm.daemon.parts import differing
from exo_rkllm.dispatch.state import ModelNeeds
from exo_rkllm.errors import RuntimeMissing

HOST = EngineHost(lambda _lines: None)


def entry(folder: Path, text: str) -> Entry:
    return Entry(folder, parse(text))


def test_a_card_says_what_the_model_takes(tmp_path: Path) -> None:
    (tmp_path / "m.rkllm").write_bytes(bytes(5000))
    model = entry(tmp_path, 'id = "m"\nmemory = 777\n[weights]\nfile = "m.rkllm"\n[options]\nbase_domain_id = 3')
    assert engines.needs(model, EngineRegistry()) == ModelNeeds(777, 5000, 3)


def test_without_a_figure_the_file_tells(tmp_path: Path) -> None:
    (tmp_path / "m.rkllm").write_bytes(bytes(5000))
    assert engines.needs(RkllmFile(tmp_path / "m.rkllm"), EngineRegistry()) == ModelNeeds(5000 + engines.OVERHEAD, 5000)
    assert engines.needs(RkllmFile(tmp_path / "gone.rkllm"), EngineRegistry()) == ModelNeeds(0, 1), (
        "loading it says what is wrong"
    )
    assert engines.needs(DummyModel(), EngineRegistry()) == ModelNeeds(0)


def test_an_old_driver_has_one_address_window(board: Callable[[str], Path]) -> None:
    assert engines.windows(detect(board("orangepi-5-plus"))) == engines.WINDOWS
    assert engines.windows(detect(board("old-driver"))) == 1
    assert engines.windows(detect(Path("/nonexistent"))) == engines.WINDOWS


def test_the_board_is_in_the_way_before_the_library(board: Callable[[str], Path]) -> None:
    missing = RuntimeMissing("No librkllmrt.so.")
    assert engines.unavailable_reason(detect(board("orangepi-5-plus")), None) is None
    assert engines.unavailable_reason(detect(board("orangepi-5-plus")), missing) is missing
    reason = engines.unavailable_reason(detect(Path("/nonexistent")), missing)
    assert reason is not None
    assert reason.code == "board"


def test_settings_that_differ_are_named() -> None:
    from dataclasses import replace

    old = Config()
    new = replace(old, api=replace(old.api, port=1, listen="::1"), log=replace(old.log, level="debug"), files=("x",))
    assert differing(old, new) == ["api.listen", "api.port", "log.level"]
    assert differing(old, new, ("api.port", "log")) == ["api.port", "log.level"]
