"""`exo-rkllm-simulator use` and `off`, in folders of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_rkllm.config.load import read_file
from exo_rkllm.rknn.encoderfile import inspect
from simulator import command


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    library = tmp_path / "lib/1.3.1/librkllmrt.so"
    library.parent.mkdir(parents=True)
    library.touch()
    encoders = tmp_path / "lib/rknn-2.3.2/librknnrt.so"
    encoders.parent.mkdir()
    encoders.touch()
    monkeypatch.setattr(command, "LIBRARIES", tmp_path / "lib")
    monkeypatch.setattr(command, "BOARD_ROOT", tmp_path / "board")
    monkeypatch.setattr(command, "SETTINGS", tmp_path / "conf.d/simulator.toml")
    monkeypatch.setattr(command, "VARIABLES", tmp_path / "conf.d/simulator.env")
    return tmp_path


def test_use_writes_what_the_daemon_reads_and_off_takes_it_away(
    places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["use", "--board", "rock-5b"]) == 0
    values = read_file(places / "conf.d/simulator.toml")
    assert values["board"] == {"root": str(places / "board")}
    assert values["runtime"] == {
        "library": str(places / "lib/1.3.1/librkllmrt.so"),
        "encoder_library": str(places / "lib/rknn-2.3.2/librknnrt.so"),
    }
    assert (places / "conf.d/simulator.env").read_text() == f"RKLLM_SIM_ROOT={places / 'board'}\n"
    assert b"rock-5b" in (places / "board/sys/firmware/devicetree/base/compatible").read_bytes()
    assert command.main(["off"]) == 0
    assert not (places / "board").exists() and not list((places / "conf.d").iterdir())
    assert "systemctl restart exo-rkllm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["use", "--board", "toaster"], "There is no board 'toaster'"),
        (["use", "--runtime", "7.0"], "lib/7.0/librkllmrt.so"),
        (["fly"], "There is no verb 'fly'"),
    ],
)
def test_what_is_not_there_is_named(
    places: Path, capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    assert command.main(argv) == 2
    assert said in capsys.readouterr().err
    assert not (places / "conf.d").exists()


def test_libraries_and_boards_are_listed(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["libraries"]) == 0 and command.main(["boards"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == str(places / "lib/1.3.1/librkllmrt.so") and "orangepi-5-plus" in printed
    assert printed[1] == str(places / "lib/rknn-2.3.2/librknnrt.so")


def test_encoder_is_written(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = places / "a_vision_rk3588.rknn"
    assert command.main(["encoder", str(file), "--size", "448", "--tokens", "256"]) == 0
    assert inspect(file).shape().tokens == 256 and str(file) in capsys.readouterr().out
