"""`exo-rkllm doctor`: check everything a model needs, in order, and name each repair."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.cli import place
from exo_rkllm.cli.output import Paint, repair_lines, terminal_width, wrap
from exo_rkllm.client.control import daemon_status
from exo_rkllm.doctor.checks import diagnose
from exo_rkllm.doctor.identity import identity_for
from exo_rkllm.doctor.report import DoctorReport, Finding, Level
from exo_rkllm.doctor.scene import Scene, look
from exo_rkllm.errors import ConfigError

MARKS: dict[Level, tuple[str, tuple[str, ...]]] = {
    "pass": ("ok", ("green",)),
    "warn": ("warn", ("yellow", "bold")),
    "fail": ("FAIL", ("red", "bold")),
    "skip": ("-", ("grey",)),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME|FILE", default="", help="check this model only")
    parser.add_argument(
        "--user",
        metavar="NAME",
        help="check device access for this user (default: you; as root, the service's)",
    )
    parser.add_argument("--root", metavar="DIR", type=Path, help="read /sys, /proc and /dev below this folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = "Exit code: 0 if no check failed (warnings do not count), 1 otherwise."


def main(args: argparse.Namespace) -> int:
    scene = look(
        os.environ, identity_for(args.user), daemon_status(os.environ), configured_catalogue(), args.root, args.model
    )
    report = diagnose(scene)
    if args.json:
        print(json.dumps(as_json(scene, report), indent=2))
    else:
        print(*text(scene, report, Paint(sys.stdout), terminal_width(sys.stdout)), sep="\n")
    return 0 if report.ok else 1


def configured_catalogue() -> Catalogue | None:
    """The catalogue that every verb uses; None if the configuration, which is a check of its own, is broken."""
    try:
        return place.node().catalogue
    except ConfigError:
        return None


def as_json(scene: Scene, report: DoctorReport) -> dict[str, object]:
    return {
        "ok": report.ok,
        "board": scene.board.title,
        "user": report.user,
        "container": scene.board.container or None,
        "checks": [{"name": line.check, **asdict(line.finding)} for line in report.lines],
    }


def text(scene: Scene, report: DoctorReport, paint: Paint, width: int) -> Iterator[str]:
    inside = f", inside {scene.board.container}" if scene.board.container else ""
    yield paint(f"{scene.board.title}", "bold") + f", as {report.user}{inside}"
    yield ""
    label = max(len(line.check) for line in report.lines)
    for line in report.lines:
        yield from check_lines(line.check, line.finding, label, paint, width)
    yield ""
    failures, warnings = report.count("fail"), report.count("warn")
    if failures:
        yield paint(f"{failures} failed", "red", "bold") + f", {warnings} warning{'' if warnings == 1 else 's'}."
    elif warnings:
        yield f"Nothing failed, {warnings} warning{'' if warnings == 1 else 's'}."
    else:
        yield paint("No problems found.", "green")


def check_lines(name: str, finding: Finding, label: int, paint: Paint, width: int) -> Iterator[str]:
    """One check with its mark, its fact and its repair; `label` is the width of the longest name."""
    indent = " " * (label + 8)
    mark, styles = MARKS[finding.level]
    first, *more = wrap(finding.fact, width - len(indent))
    yield f"{paint(f'{mark:>4}', *styles)}  {name:<{label}}  {first}"
    yield from (indent + line for line in more)
    if finding.repair:
        yield from repair_lines(finding.repair, paint, width, indent)
