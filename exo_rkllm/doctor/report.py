"""What a check found: a level, the fact that was seen, and the command that repairs it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from exo_rkllm.errors import ExoRkllmError

# Not to be published: addresses of network cards and of the machine.
PRIVATE = re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b|\b(?:\d{1,3}\.){3}\d{1,3}\b", re.IGNORECASE)
Level: TypeAlias = Literal["pass", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`skip`: it could not be looked at, because of what failed before or because nobody may here."""

    level: Level
    fact: str
    repair: str = ""


@dataclass(frozen=True, slots=True)
class ReportLine:
    check: str
    finding: Finding


@dataclass(frozen=True, slots=True)
class DoctorReport:
    user: str
    lines: tuple[ReportLine, ...]

    def count(self, level: Level) -> int:
        return sum(line.finding.level == level for line in self.lines)

    @property
    def ok(self) -> bool:
        return self.count("fail") == 0


def good(fact: str) -> Finding:
    return Finding("pass", fact)


def poor(fact: str, repair: str) -> Finding:
    return Finding("warn", fact, repair)


def bad(fact: str, repair: str) -> Finding:
    return Finding("fail", fact, repair)


def from_error(error: ExoRkllmError) -> Finding:
    return bad(error.sentence, error.hint)


def unseen(fact: str) -> Finding:
    return Finding("skip", fact)


def publishable(text: str) -> str:
    """The text without addresses."""
    return PRIVATE.sub("(left out)", text)


def worst(findings: Sequence[Finding]) -> Finding:
    """The first of the worst level, for checks that look at several things."""
    order: tuple[Level, ...] = ("fail", "warn", "pass", "skip")
    return min(findings, key=lambda finding: order.index(finding.level))
