"""The example package of docs/examples, built and installed beside our wheel in a fresh venv."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.running import REPOSITORY, House, house_of
from tests.plugins.asking import chat

EXAMPLE = "docs/examples/exo-rkllm-parrot"


def wheel(source: str, names: tuple[str, ...], folder: Path) -> Path:
    """Of what is in the repository's index, so that nothing of a working folder comes along."""
    listed = subprocess.run(
        ["git", "ls-files", *(f"{source}/{name}" for name in names)], cwd=REPOSITORY, capture_output=True, text=True
    ).stdout.split()
    for name in listed:
        target = folder / "source" / Path(name).relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, target)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([*command, str(folder / "source")], check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv with both wheels; what they depend on is lent by the one that the tests run in."""
    home = tmp_path_factory.mktemp("venv")
    ours = wheel(".", ("exo_rkllm", "pyproject.toml", "README.md", "LICENSE"), tmp_path_factory.mktemp("ours"))
    theirs = wheel(EXAMPLE, ("",), tmp_path_factory.mktemp("theirs"))
    venv.create(home, with_pip=True, symlinks=True)
    install = [str(home / "bin/python"), "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*install, str(ours), str(theirs)], check=True, capture_output=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


@pytest.fixture
def house(tmp_path: Path, installed: Path) -> Iterator[House]:
    one = house_of(tmp_path / "house")
    del one.environment["PYTHONPATH"]
    one.program, one.at = (str(installed / "bin/exo-rkllm"),), tmp_path
    with one.stack:
        yield one


def parrot(folder: Path) -> Path:
    """A model's folder as its makers would publish it."""
    folder.mkdir()
    (folder / "polly.parrot").write_text("Polly\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "parrot", "n_pairs": 7, "d_model": 512}))
    return folder


def test_the_installed_package_is_ours_and_not_the_tree(installed: Path) -> None:
    program = "import exo_rkllm, exo_rkllm_parrot; print(exo_rkllm.__file__, exo_rkllm_parrot.__file__)"
    done = subprocess.run([installed / "bin/python", "-I", "-c", program], capture_output=True, text=True, check=True)
    assert all(Path(path).is_relative_to(installed) for path in done.stdout.split()), done.stdout


@pytest.mark.seed("4.5", "group, name, value")
def test_both_of_its_plugins_are_listed(house: House) -> None:
    rows = json.loads(house.command("plugins", "--json").stdout)
    assert [(row["group"], row["name"], row["package"], row["version"], row["state"]) for row in rows] == [
        ("exo_rkllm.plugins", "parrot-family", "exo-rkllm-parrot", "1.0", "used"),
        ("exo_rkllm.backends", "parrot", "exo-rkllm-parrot", "1.0", "used"),
    ]


@pytest.mark.seed("4.3", "engines/<backend>/")
def test_its_engine_is_a_row_among_ours(house: House) -> None:
    rows = {row["name"]: row for row in json.loads(house.command("engines", "--json").stdout)["engines"]}
    assert rows["parrot"]["from"] == "exo-rkllm-parrot 1.0"
    assert rows["parrot"]["formats"] == [".parrot"]
    assert "words_per_second" in rows["parrot"]["options"]
    assert rows["rkllm"]["from"] == "built in"


def test_a_model_of_its_type_is_imported_described_and_answers(house: House, tmp_path: Path) -> None:
    imported = house.command("import", str(parrot(tmp_path / "polly-1b")), "--name", "polly", "--offline")
    assert imported.returncode == 0, imported.stderr
    shown = json.loads(house.command("show", "polly", "--json").stdout)
    assert (shown["engine"], shown["stop"], shown["reasoning"]) == ("parrot", ["<|squawk|>"], "defined by a plugin")
    card = house.command("show", "polly", "--card").stdout
    assert "layers = 14" in card, "its config_adapter was asked"
    assert "hidden_size = 512" in card
    why = json.loads(house.command("engines", "--for", "polly", "--json").stdout)
    assert (why["engine"], why["why"]) == ("parrot", "because its card names it")
    daemon = house.start()
    assert chat(daemon, "polly", "Pieces of eight") == "Pieces of eight says Polly"
    assert daemon.stop() == 0


def test_a_file_of_its_family_for_the_npu_is_known_by_its_name(
    house: House, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    file = make_model().rename(tmp_path / "Parrot-7B_W8A8_RK3588.rkllm")
    imported = house.command("import", str(file), "--name", "p7", "--offline")
    assert imported.returncode == 0, imported.stderr
    shown = json.loads(house.command("show", "p7", "--json").stdout)
    assert (shown["engine"], shown["stop"]) == ("rkllm", ["<|squawk|>"])
    assert "<|squawk|>" in house.command("show", "p7", "--template").stdout


def test_plugin_that_is_not_allowed_has_no_effect(house: House, tmp_path: Path) -> None:
    rows = json.loads(house.command("plugins", "--json", EXO_RKLLM_PLUGINS="").stdout)
    assert {row["state"] for row in rows} == {"refused"}
    imported = house.command("import", str(parrot(tmp_path / "polly-1b")), "--offline", EXO_RKLLM_PLUGINS="")
    assert imported.returncode == 1
    assert "no .rkllm file" in imported.stderr


@pytest.mark.seed("4.1", "third-party engine as a separate pip package, no fork")
@pytest.mark.seed("4.2", "trouble 1: pip list | grep exo-myengine")
def test_exos_entry_points_load_from_the_installed_wheel_without_exo(installed: Path) -> None:
    code = (
        "import importlib.metadata as m\n"
        "for group in ('exo.inference_engines', 'exo.models', 'exo.device_detectors'):\n"
        "    for entry in m.distribution('exo-rkllm').entry_points.select(group=group):\n"
        "        print(entry.name, getattr(entry.load(), '__name__', type(entry.load()).__name__))\n"
    )
    done = subprocess.run([installed / "bin/python", "-c", code], cwd=installed, capture_output=True, text=True)
    assert done.stdout.split("\n")[:4] == [
        "rkllm RKLLMInferenceEngine",
        "rkllm-npu RKLLMInferenceEngine",
        "rkllm dict",
        "rockchip detect_rockchip_npu",
    ], done.stderr
    told = subprocess.run([installed / "bin/exo-rkllm", "exo-classic"], cwd=installed, capture_output=True, text=True)
    assert told.returncode == 1
    assert "There is no classic exo to start: no exo is installed in this Python." in told.stderr
