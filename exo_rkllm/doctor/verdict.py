"""What `exo-rkllm bench` concludes: the figures beside the vendor's, and which brake explains the difference."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from exo_rkllm.board import speeds
from exo_rkllm.board.counters import Clock, Reading
from exo_rkllm.doctor import board_checks
from exo_rkllm.doctor.benchmark import SHORT, SpeedRow
from exo_rkllm.doctor.measure import TimedReading
from exo_rkllm.doctor.report import Finding, ReportLine, poor
from exo_rkllm.doctor.scene import Scene

# Below this part of the vendor's figure something is wrong; boards of one kind differ by a few per cent.
EXPECTED = 0.9
# What no other brake explains, and a bus of half the width would.
HALF = 0.65
# Its weight is 5 to 8 %; what is slower than this has another cause.
GOVERNOR, GOVERNED = "CPU governor", 0.85
# The heaviest first.
BRAKES: tuple[tuple[str, Callable[[Scene], Finding | None]], ...] = (
    ("memory clock", board_checks.ddr_clock),
    ("NPU clock", board_checks.npu_clock),
    ("heat", board_checks.temperature),
    ("other programs", board_checks.neighbours),
    ("CPU cores", board_checks.cpu_cores),
    ("CPU clock", board_checks.cpu_clock),
    (GOVERNOR, board_checks.cpu_governor),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Measured and expected, for the vendor's prompt of 128 tokens; `cell` names the row of the vendor's table."""

    cell: str
    decode_tps: float
    expected_tps: float
    first_seconds: float
    expected_seconds: float

    @property
    def share(self) -> float:
        return self.decode_tps / self.expected_tps


@dataclass(frozen=True, slots=True)
class SpeedVerdict:
    """`brakes` are what was seen on the board while the model answered, whether or not it is slow."""

    sentence: str
    comparison: Comparison | None
    brakes: tuple[ReportLine, ...]


def judge_speed(scene: Scene, name: str, rows: Sequence[SpeedRow], timeline: Sequence[TimedReading]) -> SpeedVerdict:
    """`name` is the model's and its file's, in which the vendor's table is looked up."""
    comparison = compare(scene, name, rows)
    brakes = tuple(_brakes(replace(scene, reading=while_running(scene.reading, timeline)), name))
    return SpeedVerdict(_sentence(comparison, brakes), comparison, brakes)


def compare(scene: Scene, name: str, rows: Sequence[SpeedRow]) -> Comparison | None:
    """None where the vendor measured no such model, or nothing was measured here."""
    row = next((one for one in rows if one.name == f"{SHORT} tokens" and one.decode_tps > 0), None)
    if row is None or scene.board.soc is None:
        return None
    known = speeds.expected_speed(scene.board.soc.name, name)
    if known is None:
        return None
    expected, cell = known
    first = speeds.speeds()[cell].first_seconds(row.read)
    return Comparison(cell, row.decode_tps, expected, row.first_seconds, first)


def while_running(before: Reading, timeline: Sequence[TimedReading]) -> Reading:
    """The usual clocks, the lowest limit and the greatest heat of the run."""
    readings = [one.reading for one in timeline]
    if not readings:
        return before
    hottest = max(readings, key=lambda one: -300.0 if one.celsius is None else one.celsius)
    return replace(
        readings[-1],
        clock=_usual([one.clock for one in readings if one.clock is not None]),
        ddr=_usual([one.ddr for one in readings if one.ddr is not None]),
        celsius=hottest.celsius,
        zone=hottest.zone,
    )


def _usual(clocks: Sequence[Clock]) -> Clock | None:
    if not clocks:
        return None
    limited = [clock for clock in clocks if clock.throttled]
    candidates = limited or list(clocks)
    middle = statistics.median_low(clock.hertz for clock in candidates)
    return next(clock for clock in candidates if clock.hertz == middle)


def _brakes(scene: Scene, name: str) -> Iterator[ReportLine]:
    for brake, look in BRAKES:
        finding = look(scene)
        if finding is not None and finding.level in ("warn", "fail"):
            yield ReportLine(brake, finding)
    if speeds.grouped(name):
        fact = f"The file is quantised as w8a8_g128, which costs {speeds.GROUPED_W8A8}."
        yield ReportLine("quantisation", poor(fact, "Where the quality allows it, take the model's w8a8 file."))


def _sentence(comparison: Comparison | None, brakes: Sequence[ReportLine]) -> str:
    names = " and ".join(line.check for line in brakes)
    if comparison is None:
        return "The vendor published no figure for this model." + (f" What slows it down: {names}." if names else "")
    figures = (
        f"{comparison.decode_tps:.1f} of {comparison.expected_tps:.1f} tokens/s that the vendor measured at full clocks"
        f" ({comparison.share:.0%}, {comparison.cell})"
    )
    if comparison.share >= EXPECTED:
        return f"As fast as it should be: {figures}."
    slow = f"Slower than it should be: {figures}."
    light = all(line.check == GOVERNOR for line in brakes)
    if brakes and not (light and comparison.share < GOVERNED):
        return f"{slow} The brake: {names}."
    if comparison.share < HALF:
        return (
            f"{slow} Clocks and heat do not explain it. A memory bus of half the width would, and the kernel does not "
            f"show it: it costs {speeds.NARROW_MEMORY}."
        )
    return f"{slow} No brake that explains it can be seen from here."
