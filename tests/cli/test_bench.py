"""`exo-rkllm bench` as its user meets it: the table, the verdict, JSON, and the page to share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from exo_rkllm.cli import main
from simulator.encoder_file import SimEncoder
from tests.cli.terminal import Terminal
from tests.daemon.running import House
from tests.daemon.test_sees import seeing
from tests.simulated import Library

NAME = "qwen3-0.6b-w8a8"


@pytest.fixture
def fast(make_model: Callable[..., Path]) -> Callable[..., Path]:
    return lambda **more: make_model(
        reply="A lamp turns over the sea. ", endless=True, prefill_tps=50000, decode_tps=1000, **more
    )


def test_bench_measures_prompts_turns_and_board_through_the_daemon(
    board_house: House, fast: Callable[..., Path], tmp_path: Path
) -> None:
    board_house.add(NAME, '[weights]\nfile = "m.rkllm"\n')
    fast().rename(board_house.models / NAME / "m.rkllm")
    daemon = board_house.start()
    shared = tmp_path / "bench.html"
    done = board_house.command("bench", NAME, "--json", "--share", str(shared))
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    by_name = {row["name"]: row for row in value["rows"]}
    assert list(by_name) == ["128 tokens", "512 tokens", "2048 tokens", "turn 2", "picture"]
    for length in (128, 512, 2048):
        row = by_name[f"{length} tokens"]
        assert row["read"] + row["reused"] == pytest.approx(length, rel=0.1), row
        assert row["written"] == 64
        assert row["prefill_tps"] > 0 < row["decode_tps"]
    assert by_name["turn 2"]["reused"] > 2000
    assert by_name["turn 2"]["read"] < 128
    assert by_name["picture"]["skipped"].startswith(f"{NAME} does not see images")
    assert value["verdict"]["comparison"]["expected_tps"] == 32.91
    assert value["facts"]["librkllmrt"] == "1.3.0"
    assert value["timeline"][0]["NPU MHz"] == 1000.0
    assert daemon.model(NAME)["state"] == "ready"
    assert f"{NAME} on " in shared.read_text()
    assert str(shared) in done.stderr

    again = board_house.command("bench", NAME, "--json")
    assert json.loads(again.stdout)["load_seconds"] is None


def test_bench_shows_a_model_that_sees_a_picture(board_house: House, make_model: Callable[..., Path]) -> None:
    seeing(board_house, make_model, SimEncoder(run_seconds=0.05), prefill_tps=50000, decode_tps=2000)
    board_house.start()
    done = board_house.command("bench", "qwen2-vl", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = [row for row in json.loads(done.stdout)["rows"] if row["name"] == "picture"]
    assert row["skipped"] == ""
    assert 0.04 < row["encode_seconds"] < row["first_seconds"]


@pytest.fixture
def alone(board: Callable[[str], Path], library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = board("ddr-slow")
    for name, value in {
        "HOME": tmp_path / "home",
        "EXO_RKLLM_CONTROL_SOCKET": tmp_path / "none.sock",
        "EXO_RKLLM_RUNTIME_LIBRARY": library("1.3.0"),
        "EXO_RKLLM_BOARD_ROOT": root,
        "RKLLM_SIM_ROOT": root,
    }.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.usefixtures("alone")
def test_bench_without_daemon_prints_a_table_the_verdict_and_the_brake(
    fast: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(fast(file="poet.rkllm", max_context=1024))]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("poet on Orange Pi 5 Plus\n")
    assert "512 tokens" in out
    assert "2048 tokens: " in out  # does not fit
    assert "The vendor published no figure for this model. What slows it down: memory clock and CPU governor." in out
    assert "memory MHz 528" in out
    assert "performance = true" in out


@pytest.mark.usefixtures("alone")
def test_page_that_cannot_be_written_loses_no_figure(
    fast: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["bench", str(fast(file="poet.rkllm", max_context=1024)), "--share", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert "512 tokens" in out
    assert f"exo-rkllm: {tmp_path} cannot be written: Is a directory.\n  try: " in err


@pytest.mark.usefixtures("alone")
def test_bench_shows_its_steps_and_ends_with_ctrl_c(
    make_model: Callable[..., Path], terminal: Callable[..., Terminal]
) -> None:
    slow = make_model(reply="on and on ", endless=True, decode_tps=20)
    bench = terminal("bench", str(slow))
    bench.until("warm-up")
    bench.type("\x03")
    assert bench.process.wait(10) == 130


@pytest.mark.usefixtures("alone")
def test_bench_says_what_is_in_the_way(
    make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["bench", "nobody"]) == 1
    assert "exo-rkllm models" in capsys.readouterr().err
    assert main(["bench", "nobody", "--share", str(tmp_path / "no" / "page.html")]) == 2
    assert "mkdir -p" in capsys.readouterr().err
    assert main(["bench", str(make_model(reply=""))]) == 1
    assert "answered nothing" in capsys.readouterr().err
