"""The library's lines, read: level and source of one, the facts that init prints, a run's figures (reference 4.1)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from exo_rkllm.runtime.values import RunStats

Level: TypeAlias = Literal["T", "D", "I", "W", "E", ""]

PREFIX = re.compile(r"([TDIWE]) (rkllm|RKNN): (?:\[[\d:.]+\] ?)?(.*)")


@dataclass(frozen=True, slots=True)
class VendorLine:
    """One line; level and source are empty where the library gave none."""

    level: Level
    source: Literal["rkllm", "RKNN", ""]
    message: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What init said; None where it did not say it, which depends on release and log level."""

    release: str | None = None
    driver: str | None = None
    platform: str | None = None
    toolkit: str | None = None
    max_context_limit: int | None = None
    npu_cores: int | None = None
    target_platform: str | None = None
    dtype: str | None = None
    cpus: tuple[int, ...] = ()
    vocab_size: int | None = None
    bos: int | None = None
    eos: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


def parse(line: str) -> VendorLine:
    match = PREFIX.fullmatch(line.rstrip())
    if match is None:
        return VendorLine("", "", line.rstrip())
    level, source, message = match.groups()
    return VendorLine(level, source, message)  # type: ignore[arg-type]  # the pattern admits nothing else


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _known(text: str) -> str | None:
    return None if text == "unknown" else text


# A pattern, and for each of its groups the fact and how it is read. Levels differ between releases, so only the
# message counts.
PATTERNS: tuple[tuple[re.Pattern[str], Mapping[str, Callable[[str], Any]]], ...] = (
    (
        re.compile(
            r"rkllm-runtime version: (?P<release>[^\s,]+), rknpu driver version: (?P<driver>[^\s,]+),"
            r" platform: (?P<platform>\S+)"
        ),
        {"release": str, "driver": _known, "platform": str},
    ),
    (
        re.compile(
            r"rkllm-toolkit version: (?P<toolkit>[^\s,]+), max_context_limit: (?P<max_context_limit>\d+),"
            r" npu_core_num: (?P<npu_cores>\d+), target_platform: (?P<target_platform>\w+)"
            r"(?:, model_dtype: (?P<dtype>\w+))?"
        ),
        {
            "toolkit": _known,
            "max_context_limit": int,
            "npu_cores": int,
            "target_platform": _known,
            "dtype": _known,
        },
    ),
    (re.compile(r"Enabled cpus: \[(?P<cpus>[\d, ]*)\]"), {"cpus": _numbers}),
    (re.compile(r"vocab_size: (?P<vocab_size>\d+)"), {"vocab_size": int}),
    (re.compile(r"BOS token: (?P<bos>\d+)"), {"bos": int}),
)
# Several ids are possible from 1.3.0 on, one a line.
EOS = re.compile(r"EOS token(?:\[\d+\])?: (\d+)")
# A row of the block that a run prints from level 1 on (reference 4.1): stage, milliseconds, tokens.
STAGE = re.compile(r"\s*(Prefill|Generate)\s+(\d+(?:\.\d+)?)\s+(\d+)(?:\s.*)?")


def facts(lines: Iterable[str]) -> Facts:
    values: dict[str, Any] = {}
    ends: list[int] = []
    warnings: list[str] = []
    for line in map(parse, lines):
        if line.level == "W":
            warnings.append(line.message)
        if (end := EOS.match(line.message)) is not None:
            ends.append(int(end[1]))
        for pattern, readers in PATTERNS:
            if (match := pattern.match(line.message)) is not None:
                values |= {name: readers[name](text) for name, text in match.groupdict().items() if text is not None}
    return Facts(**values, eos=tuple(ends), warnings=tuple(warnings))


def stages(lines: Iterable[str]) -> Mapping[str, tuple[float, int]]:
    """What the last run printed of itself: milliseconds and tokens of `Prefill` and `Generate`."""
    rows = (STAGE.fullmatch(line.message) for line in map(parse, lines) if line.source == "rkllm")
    return {row[1]: (float(row[2]), int(row[3])) for row in rows if row is not None}


def with_log_figures(stats: RunStats, lines: Iterable[str]) -> RunStats:
    """The same with what the run printed of itself: runtimes before 1.2.1 tell it nowhere else, from level 1 on."""
    rows = stages(lines)
    if not {"Prefill", "Generate"} <= rows.keys():
        return stats
    (prefill_ms, prefill), (generate_ms, _) = rows["Prefill"], rows["Generate"]
    if stats.aborted and stats.generate_ms is not None:
        generate_ms = stats.generate_ms  # theirs goes on until the abort took effect
    return replace(stats, prefill_tokens=prefill, prefill_ms=prefill_ms, generate_ms=generate_ms, source="runtime")
