"""The verdict and the page of `exo-rkllm bench`: from readings and figures, without a model."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from exo_rkllm.board.counters import Reading
from exo_rkllm.client.control import DaemonStatus
from exo_rkllm.doctor.benchmark import STEPS, SpeedRow, story, words_for
from exo_rkllm.doctor.identity import current_identity
from exo_rkllm.doctor.measure import TimedReading
from exo_rkllm.doctor.scene import Scene, look
from exo_rkllm.doctor.share import BenchReport, page
from exo_rkllm.doctor.verdict import SpeedVerdict, judge_speed, while_running

MODEL = "Qwen3-0.6B_w8a8_RK3588.rkllm"
VENDOR = 32.91


@pytest.fixture
def scene(board: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Scene]:
    def at(profile: str) -> Scene:
        environment = {"HOME": str(tmp_path)}
        return look(environment, current_identity(), DaemonStatus(), None, board(profile))

    return at


def rows(tps: float, name: str = STEPS[1]) -> tuple[SpeedRow, ...]:
    return (SpeedRow(name, read=128, written=64, first_seconds=0.3, prefill_tps=500, decode_tps=tps),)


def verdict(scene: Scene, tps: float, *readings: Reading, model: str = MODEL) -> SpeedVerdict:
    timeline = [TimedReading(float(number), reading) for number, reading in enumerate(readings or (scene.reading,))]
    return judge_speed(scene, model, rows(tps), timeline)


@pytest.mark.parametrize(
    ("profile", "share", "says", "brakes"),
    [
        ("orangepi-5-plus", 0.95, "As fast as it should be: 31.3 of 32.9 tokens/s", ["CPU governor"]),
        ("orangepi-5-plus", 0.87, "The brake: CPU governor.", ["CPU governor"]),
        ("orangepi-5-plus", 0.75, "No brake that explains it can be seen", ["CPU governor"]),
        ("orangepi-5-plus", 0.5, "a memory bus of 32 bits", ["CPU governor"]),
        ("ddr-slow", 0.5, "The brake: memory clock and CPU governor.", ["memory clock", "CPU governor"]),
        ("ddr-missing", 0.6, "The brake: memory clock and CPU governor.", ["memory clock", "CPU governor"]),
        ("hot", 0.6, "The brake: NPU clock and heat", ["NPU clock", "heat", "CPU governor"]),
    ],
)
def test_verdict_names_the_brake_that_explains_the_speed(
    scene: Callable[[str], Scene], profile: str, share: float, says: str, brakes: list[str]
) -> None:
    result = verdict(scene(profile), VENDOR * share)
    assert says in result.sentence
    assert [line.check for line in result.brakes] == brakes
    assert result.comparison is not None
    assert result.comparison.share == pytest.approx(share)
    assert result.comparison.expected_seconds == pytest.approx(0.199, abs=0.001)
    assert all(line.finding.repair for line in result.brakes)


def test_model_that_the_vendor_did_not_measure_has_brakes_and_no_comparison(scene: Callable[[str], Scene]) -> None:
    result = verdict(scene("ddr-slow"), 9.0, model="poet-7b_w8a8_g128")
    assert result.comparison is None
    assert result.sentence.startswith("The vendor published no figure for this model. What slows it down: memory clock")
    assert [line.check for line in result.brakes] == ["memory clock", "CPU governor", "quantisation"]
    assert verdict(scene("raspberry-pi"), 9.0).comparison is None


def test_clocks_are_judged_by_what_they_were_while_the_model_answered(scene: Callable[[str], Scene]) -> None:
    """A governor that sleeps before and after is no brake, and a limit of one moment is one."""
    slow, good = scene("ddr-slow"), scene("orangepi-5-plus")
    awake = replace(slow.reading, ddr=good.reading.ddr)
    assert [line.check for line in verdict(slow, VENDOR, slow.reading, awake, awake).brakes] == ["CPU governor"]
    hot = scene("hot").reading
    meanwhile = while_running(good.reading, [TimedReading(0, good.reading), TimedReading(1, hot)])
    assert (meanwhile.clock, meanwhile.celsius) == (hot.clock, hot.celsius)
    assert while_running(good.reading, []) == good.reading


def test_words_follow_what_was_counted() -> None:
    """A template of 30 tokens and one and a half tokens a word."""
    known = [(8, 42), (64, 126)]
    first = words_for(128, known)
    known.append((first, 30 + round(1.5 * first)))
    assert words_for(2048, known) == pytest.approx((2048 - 30) / 1.5, rel=0.01)
    assert words_for(128, [(8, 0), (64, 0)]) > 0
    assert len(story(1, 300).split()) == pytest.approx(300, abs=5)
    assert story(1, 300).split()[1:4] != story(2, 300).split()[1:4]


@pytest.fixture
def report(scene: Callable[[str], Scene]) -> BenchReport:
    there = scene("ddr-slow")
    timeline = tuple(TimedReading(number / 2, replace(there.reading, celsius=44.0 + number)) for number in range(6))
    measured = (*rows(15.0), SpeedRow("picture", skipped="poet <b> at 192.168.1.7 does not see images."))
    return BenchReport(
        model="qwen3-0.6b",
        board="Orange Pi 5 Plus",
        facts=(("SoC", "RK3588"), ("kernel", "6.1.43"), ("librkllmrt", "")),
        load_seconds=1.5,
        memory=800 << 20,
        rows=measured,
        timeline=timeline,
        verdict=judge_speed(there, MODEL, measured, timeline),
        now=0.0,
    )


def test_shared_page_is_whole_and_tells_nothing_of_the_owner(report: BenchReport) -> None:
    text = page(report)
    assert "15.0 of 32.9 tokens/s" in text
    assert "the vendor: 32.9" in text
    assert "poet &lt;b&gt; at (left out) does not see images." in text
    assert "1970-01-01" in text
    for private in (socket.gethostname(), str(Path.home()), os.environ.get("USER") or "nobody-at-all", "192.168"):
        assert f" {private}" not in text and f"/{private}" not in text
    assert not re.search(r"<script|src=|href=|url\(|@import|https?://", text)
    drawings = [ElementTree.fromstring(drawing) for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]  # noqa: S314 - our own
    assert [drawing.get("aria-label") for drawing in drawings][:4] == [
        "tokens a second",
        "NPU MHz",
        "memory MHz",
        "degrees",
    ]
    curve = drawings[3].find("polyline")
    assert curve is not None
    assert len(str(curve.get("points")).split()) == 6


def test_names_of_other_programs_stay_at_home(report: BenchReport, scene: Callable[[str], Scene]) -> None:
    there = scene("ddr-slow")
    busy = replace(there, neighbours=replace(there.neighbours, names={"my-secret.py": 1}))
    result = judge_speed(busy, MODEL, report.rows, report.timeline)
    assert "my-secret.py" in str(result)
    text = page(replace(report, verdict=result))
    assert "my-secret.py" not in text
    assert "other programs: held the NPU as well." in text


def test_values_of_the_report_are_plain(report: BenchReport) -> None:
    value: dict[str, Any] = report.plain()
    assert value["timeline"][1] == {
        "seconds": 0.5,
        "NPU MHz": 1000.0,
        "memory MHz": 528.0,
        "degrees": 45.0,
        "NPU load %": pytest.approx(0, abs=100),
        "free memory MiB": pytest.approx(12288, abs=8192),
        "watts": None,
    }
    assert value["verdict"]["comparison"]["cell"] == "rk3588/qwen3-0.6b/w8a8"
    assert value["rows"][1]["skipped"]
