"""`exo-rkllm board`: for people, and for programs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from exo_rkllm.board.counters import read
from exo_rkllm.board.detect import detect
from exo_rkllm.board.sources import find_sources
from exo_rkllm.cli import board as verb
from exo_rkllm.cli import main
from exo_rkllm.cli.output import Paint
from simulator import boards

Build = Callable[[str], Path]


def printed(root: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main(["board", "--root", str(root), *flags]) == 0
    return capsys.readouterr().out


def test_usable_board_is_described_and_can_run_models(board: Build, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(board("rk3588-busy"), capsys).splitlines()
    assert lines[0] == "Orange Pi 5 Plus"
    assert "  NPU           fdab0000.npu, 3 cores, IOMMU" in lines
    assert "  driver        RKNPU 0.9.8 (drm_gem)" in lines
    assert "  NPU load      core 0: 65%, core 1: 70%, core 2: 100%" in lines
    assert "  CPU threads   on CPU 4, 5, 6, 7" in lines
    assert lines[-1].startswith("RKLLM models can run here.")


def test_unknown_value_is_shown_with_its_reason(board: Build, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(board("debugfs-bind-empty"), capsys)
    assert "Not available here:\n  load  the service was started before the driver" in text
    assert "NPU load" not in text


def test_unavailable_npu_comes_with_its_repair(board: Build, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(board("rk3588s-mainline"), capsys)
    assert "mainline's driver rocket" in text
    assert "  try: Boot a vendor kernel" in text
    assert "Not available" in text


def test_limits_and_missing_nodes_are_shown(board: Build, capsys: pytest.CaptureFixture[str]) -> None:
    assert "800 of 1000 MHz, limited to 800" in printed(board("hot"), capsys)
    assert "/dev/dri/card1 (missing)" in printed(board("container-no-nodes"), capsys)
    assert "CMA 13 of 16 MiB free" in printed(board("rk3568-cma"), capsys)
    assert "RK182x on PCI 0000:01:00.0" in printed(board("coprocessor"), capsys)


@pytest.mark.parametrize("profile", sorted(boards.PROFILES))
def test_json_describes_every_board(profile: str, board: Build, capsys: pytest.CaptureFixture[str]) -> None:
    root = board(profile)
    found = json.loads(printed(root, capsys, "--json"))
    assert found["usable"] == (found["unavailable_reason"] is None)
    assert {"state", "model", "soc", "npu", "reading"} <= set(found)
    text = printed(root, capsys)
    assert "Traceback" not in text
    assert all(line.isprintable() for line in text.splitlines())
    found_again = detect(root)
    lines = list(verb.text(found_again, read(find_sources(root, found_again)), Paint(io.StringIO()), 80))
    assert max(map(len, lines)) <= 80
    reason = found_again.unavailable_reason()
    if reason is not None:
        said = " ".join(" ".join(lines).split())
        assert said.count(reason.sentence) == 1
        assert reason.hint in said


def test_root_comes_from_the_configuration_without_a_flag(
    board: Build, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXO_RKLLM_BOARD_ROOT", str(board("rock-4d")))
    assert main(["board"]) == 0
    assert capsys.readouterr().out.startswith("ROCK 4D\n")
