"""Several of the vendor's libraries in one daemon: each model is loaded with the right one."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.runtime.locate import NAME, VERSIONS
from tests.daemon.running import START, Daemon, House
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
    daemon.client.post("/control/load", model=chosen)
    assert "chosen: runtime 1.2.3, its card says so" in board_house.command("ps").stdout.splitlines()
    with urllib.request.urlopen(f"http://{daemon.status()['listening'][0]}/v1/status", timeout=10) as response:
        shown = {model["name"]: model for model in json.load(response)["models"]}
    assert (shown["chosen"]["runtime"], shown["chosen"]["runtime_reason"]) == ("1.2.3", "its card says so")
    assert "trapped loads with runtime 1.2.3: the default, 1.3.0, misses the end token" in daemon.text
    assert [(one["version"], one["default"]) for one in daemon.status()["runtimes"]] == [
        ("1.3.0", True),
        ("1.2.3", False),
    ]


def wait_for_versions(daemon: Daemon, *releases: str) -> None:
    deadline = time.monotonic() + START
    while [one["version"] for one in daemon.status()["runtimes"]] != [*releases]:
        assert time.monotonic() < deadline, daemon.status()["runtimes"]
        time.sleep(0.05)


def test_version_that_comes_or_goes_is_taken_up_without_a_restart(
    board_house: House, folder: Path, library: Library, make_model: Make
) -> None:
    (folder / VERSIONS / "librkllmrt-1.2.3.so").unlink()
    trapped = add(board_house, make_model, "trapped", toolkit="1.2.2")
    daemon = board_house.start()
    assert loaded_with(daemon, trapped) == ("1.3.0", "the only one installed")
    assert "runtime 1.3.0 misses the end token" in daemon.text  # told, since nothing better is there
    folders.put(folder, library, "1.2.3")
    wait_for_versions(daemon, "1.3.0", "1.2.3")
    daemon.client.post("/control/load", model=trapped)
    folders.set_default(folder, "librkllmrt-1.2.3.so")
    wait_for_versions(daemon, "1.2.3", "1.3.0")
    (folder / VERSIONS / "librkllmrt-1.3.0.so").unlink()
    wait_for_versions(daemon, "1.2.3")
    assert daemon.model(trapped)["state"] == "ready"  # a loaded model keeps its library
    daemon.client.post("/control/unload", model=trapped)
    assert loaded_with(daemon, trapped) == ("1.2.3", "the only one installed")
    (folder / NAME).unlink()
    wait_for_versions(daemon)
    assert "cannot be read" in daemon.status()["unavailable_reason"]


def test_card_that_names_a_missing_version_is_refused_until_it_is_installed(
    board_house: House, folder: Path, library: Library, make_model: Make
) -> None:
    chosen = add(board_house, make_model, "chosen", 'runtime = "1.2.0"', toolkit="1.1.4")
    daemon = board_house.start()
    with pytest.raises(ExoRkllmError) as caught:
        loaded_with(daemon, chosen)
    assert "wants runtime 1.2.0, and installed are only: 1.3.0, 1.2.3." in caught.value.sentence
    assert "--install FILE with librkllmrt 1.2.0" in caught.value.hint
    folders.put(folder, library, "1.2.0")
    wait_for_versions(daemon, "1.3.0", "1.2.3", "1.2.0")
    assert loaded_with(daemon, chosen) == ("1.2.0", "its card says so")


def test_card_cannot_name_a_file(board_house: House, folder: Path, make_model: Make) -> None:
    """Cards come from strangers, too."""
    (board_house.folder / "evil.so").write_bytes((folder / NAME).read_bytes())
    evil = add(board_house, make_model, "evil", 'runtime = "../../evil.so"')
    daemon = board_house.start()
    with pytest.raises(ExoRkllmError, match=r"wants runtime .*evil\.so, and installed are only"):
        loaded_with(daemon, evil)


def test_model_that_crashes_is_not_tried_with_another_version(
    board_house: House, folder: Path, make_model: Make
) -> None:
    crashing = add(board_house, make_model, "crashing", toolkit="1.1.4", faults=("bus@init",), faults_on="1.3.0")
    daemon = board_house.start()
    with pytest.raises(ExoRkllmError, match="was killed by SIGBUS while loading") as caught:
        loaded_with(daemon, crashing)
    assert caught.value.hint == "exo-rkllm selftest --runtimes crashing tries each installed runtime"
    assert "crashing loads with runtime 1.3.0" in daemon.text
    assert "crashing loads with runtime 1.2.3" not in daemon.text


def test_models_of_an_old_version_stay_in_domain_0_and_others_out_of_it(
    board_house: House, library: Library, make_model: Make
) -> None:
    folder = board_house.folder / "lib"
    board_house.environment["EXO_RKLLM_RUNTIME_LIBRARY"] = str(folders.filled(folder, library, "1.3.1", "1.1.4"))
    old = add(board_house, make_model, "old", 'runtime = "1.1.4"', toolkit="1.1.4")
    new = add(board_house, make_model, "new", toolkit="1.3.0")
    daemon = board_house.start()
    for name in (old, new):
        daemon.client.post("/control/load", model=name)
    assert folders.mapped_releases(daemon.process.pid) == ["1.1.4", "1.3.1"]
    models = {name: daemon.model(name) for name in (old, new)}
    assert [(one["runtime"], one["domain"]) for one in models.values()] == [("1.1.4", 0), ("1.3.1", 1)]
