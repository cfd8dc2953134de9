"""Several of the vendor's libraries in one daemon: each model is loaded with the right one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.running import Daemon, House
from tests.runtime import folders
from tests.simulated import Library

Make = Callable[..., Path]


@pytest.fixture
def folder(board_house: House, library: Library) -> Path:
    """1.3.0 is the default, and 1.2.3 stands beside it."""
    folder = board_house.folder / "lib"
    board_house.environment["EXO_RKLLM_RUNTIME_LIBRARY"] = str(folders.filled(folder, library, "1.3.0", "1.2.3"))
    return folder


def add(house: House, make_model: Make, name: str, options: str = "", **situation: object) -> str:
    house.add(name, f'[weights]\nfile = "m.rkllm"\n[options]\n{options}\n')
    make_model(**situation).rename(house.models / name / "m.rkllm")
    return name


def loaded_with(daemon: Daemon, name: str) -> tuple[str, str]:
    """The release that the model's process has mapped, and the daemon's word for the reason."""
    daemon.client.post("/control/load", model=name)
    model = daemon.model(name)
    assert folders.mapped_releases(daemon.process.pid) == [model["runtime"]]
    daemon.client.post("/control/unload", model=name)
    return model["runtime"], model["runtime_reason"]


def test_each_model_is_loaded_with_the_library_that_suits_it(
    board_house: House, folder: Path, make_model: Make
) -> None:
    plain = add(board_house, make_model, "plain", toolkit="1.3.0")
    trapped = add(board_house, make_model, "trapped", toolkit="1.2.2")
    deepseek = add(board_house, make_model, "deepseek-r1-distill-qwen-1.5b", toolkit="1.2.1")
    chosen = add(board_house, make_model, "chosen", 'runtime = "1.2.3"', toolkit="1.2.0")
    daemon = board_house.start()
    assert loaded_with(daemon, plain) == ("1.3.0", "the default")
    assert loaded_with(daemon, trapped) == (
        "1.2.3",
        "the default, 1.3.0, misses the end token of files of toolkits 1.2.2 and 1.2.3",
    )
    assert loaded_with(daemon, deepseek) == ("1.3.0", "the default")
    assert loaded_with(daemon, chosen) == ("1.2.3", "its card says so")
    assert "trapped loads with runtime 1.2.3: the default, 1.3.0, misses the end token" in daemon.text
    assert [(one["version"], one["default"]) for one in daemon.status()["runtimes"]] == [
        ("1.3.0", True),
        ("1.2.3", False),
    ]
