"""`exo-rkllm doctor`: everything that has to be right before a model answers, checked in order."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.cli import place, wrap
from exo_rkllm.cli.paint import Paint
from exo_rkllm.client.control import daemon_status
from exo_rkllm.doctor.checks import diagnose
from exo_rkllm.doctor.identity import judged
from exo_rkllm.doctor.report import DoctorReport, Level
from exo_rkllm.doctor.scene import Scene, look
from exo_rkllm.errors import ConfigError

MARKS: dict[Level, tuple[str, tuple[str, ...]]] = {
    "pass": ("ok", ("green",)),
    "warn": ("warn", ("yellow", "bold")),
    "fail": ("FAIL", ("red", "bold")),
    "skip": ("-", ("grey",)),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME|FILE", default="", help="look at this model only")
    parser.add_argument("--user", metavar="NAME", help="judge device access for this user (root: the service's, else)")
    parser.add_argument("--root", metavar="DIR", type=Path, help="a board's /sys, /proc and /dev below this folder")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.epilog = "Exit code: 0 when nothing failed (warnings included), 1 when something did."


def main(args: argparse.Namespace) -> int:
    scene = look(os.environ, judged(args.user), daemon_status(os.environ), known(), args.root, args.model)
    report = diagnose(scene)
    if args.json:
        print(json.dumps(as_json(scene, report), indent=2))
    else:
        print(*text(scene, report, Paint(sys.stdout), wrap.width(sys.stdout)), sep="\n")
    return 0 if report.ok else 1


def known() -> Catalogue | None:
    """The models that every verb works on; none where the configuration, which is a check of its own, is broken."""
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
    indent = " " * (label + 8)
    for line in report.lines:
        mark, styles = MARKS[line.finding.level]
        first, *more = wrap.sentence(line.finding.fact, width - len(indent))
        yield f"{paint(f'{mark:>4}', *styles)}  {line.check:<{label}}  {first}"
        yield from (indent + one for one in more)
        if line.finding.repair:
            yield from wrap.tried(line.finding.repair, paint, width, indent)
    yield ""
    failed, warned = report.count("fail"), report.count("warn")
    if failed:
        yield paint(f"{failed} failed", "red", "bold") + f", {warned} warning{'' if warned == 1 else 's'}."
    elif warned:
        yield f"Nothing failed, {warned} warning{'' if warned == 1 else 's'}."
    else:
        yield paint("Everything is right.", "green")
