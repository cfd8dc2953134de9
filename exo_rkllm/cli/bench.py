"""`exo-rkllm bench`: measure a model's speed, and name what slows it down."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from exo_rkllm import __version__, dispatch
from exo_rkllm.assembly import LocalSource, is_file
from exo_rkllm.backends.base import Model
from exo_rkllm.board.counters import read
from exo_rkllm.board.detect import detect
from exo_rkllm.board.sources import find_sources
from exo_rkllm.cli import place
from exo_rkllm.cli.doctor import check_lines, configured_catalogue
from exo_rkllm.cli.output import Paint, table, terminal_width, wrap, write_report
from exo_rkllm.cli.progress import blocks
from exo_rkllm.client.answers import AnswerSource, DaemonSource
from exo_rkllm.client.control import Client, DaemonStatus, NotInTheGroup, daemon_status, find
from exo_rkllm.config import load
from exo_rkllm.doctor.benchmark import STEPS, measure_speeds
from exo_rkllm.doctor.identity import identity_for
from exo_rkllm.doctor.measure import MIB, watch_readings
from exo_rkllm.doctor.scene import Scene, look
from exo_rkllm.doctor.share import COLUMNS, BenchReport, cells, page, ranges
from exo_rkllm.doctor.verdict import judge_speed
from exo_rkllm.errors import ModelNotFound, UsageError

INTERVAL = 0.5  # seconds between two readings of the board


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name from `exo-rkllm models`, or a .rkllm file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--share",
        metavar="FILE",
        type=Path,
        help="write one HTML page to attach to a post; it names no host, address or key",
    )
    parser.add_argument("--root", metavar="DIR", type=Path, help="read /sys and /proc below this folder")
    parser.epilog = (
        "Reads 128, 512 and 2048 tokens, writes 64 after each, asks a second question, shows a model that sees a "
        "picture, and compares the speed with the vendor's table. Asks the daemon where one runs. Takes about a minute."
    )


@dataclass(frozen=True, slots=True)
class BenchTarget:
    """Who is asked for what; `model` is None where only the daemon can read it."""

    source: AnswerSource
    name: str
    model: Model | None

    @property
    def words(self) -> str:
        """In which the vendor's table is looked up."""
        path = None if self.model is None else self.model.path
        return self.name if path is None else f"{self.name}-{path.parent.name}-{path.name}"


def main(args: argparse.Namespace) -> int:
    if args.share is not None and not args.share.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {args.share.absolute().parent}.", f"mkdir -p {args.share.parent}")
    with progress_bar() as show:
        report = asyncio.run(bench(args.model, args.root, show))
    if args.json:
        print(json.dumps(report.plain(), indent=2))
    else:
        print(*text(report, Paint(sys.stdout), terminal_width(sys.stdout)), sep="\n")
    if args.share is not None:
        write_report(args.share, page(report))
        print(f"\nThe page is {args.share}.", file=sys.stderr)
    return 0


async def bench(name: str, given_root: Path | None, on_step: Callable[[str], None]) -> BenchReport:
    root = given_root or Path(load(os.environ).board.root)
    board = detect(root)
    read_board = partial(read, find_sources(root, board))
    service = daemon_status(os.environ)
    target = target_of(name, None if is_file(name) else _daemon(), root)
    here = loaded(service, target.name)
    before, began = read_board().memory_available, time.monotonic()
    on_step(f"loading {target.name}")
    try:
        await target.source.load(target.name)
        load_seconds = time.monotonic() - began
        # Now, since clocks may be raised for a loaded model only.
        scene = look(os.environ, identity_for(None), service, configured_catalogue(), root, name)
        async with watch_readings(read_board, INTERVAL) as timeline:
            rows = await measure_speeds(target.source, target.name, on_step)
    finally:
        await target.source.close()
    left = [one.reading.memory_available for one in timeline if one.reading.memory_available is not None]
    taken = max(before - min(left), 0) or None if before is not None and left else None
    return BenchReport(
        model=target.name,
        board=board.title,
        facts=facts(scene),
        load_seconds=load_seconds if here is None else None,
        memory=taken if here is None else here or None,
        rows=rows,
        timeline=tuple(timeline),
        verdict=judge_speed(scene, target.words, rows, timeline),
        now=time.time(),
    )


def _daemon() -> Client | None:
    try:
        return find()
    except NotInTheGroup:
        return None  # the user's own models are what is left


def target_of(name: str, daemon: Client | None, root: Path) -> BenchTarget:
    node = place.node(plugged=not is_file(name), root=root)
    if daemon is not None:
        model = None
        with suppress(ModelNotFound):  # the daemon may have models that this user cannot read
            model = node.find(name)
        return BenchTarget(DaemonSource(daemon.path), name if model is None else model.id, model)
    model = node.find(name)
    models = {name: model, model.id: model}
    logging.getLogger(dispatch.__name__).addHandler(logging.NullHandler())  # what goes wrong is raised here as well
    return BenchTarget(LocalSource(node.dispatcher(find=models.__getitem__)), model.id, model)


def loaded(service: DaemonStatus, name: str) -> int | None:
    """The memory that the daemon counts for the model; None where it has not loaded it."""
    models = (service.status or {}).get("models", ())
    return next(
        (int(one.get("memory") or 0) for one in models if one["name"] == name and one["state"] == "ready"), None
    )


def facts(scene: Scene) -> tuple[tuple[str, str], ...]:
    board = scene.board
    inspected = scene.models[0] if scene.models else None
    runtime = inspected.runtime.release if inspected is not None and inspected.runtime is not None else scene.runtime
    return (
        ("SoC", board.soc_name.upper()),
        ("NPU driver", "" if board.npu is None else f"{board.npu.driver} {board.npu.version}".strip()),
        ("librkllmrt", runtime),
        ("kernel", board.kernel),
        ("exo-rkllm", f"{__version__}, Python {platform.python_version()}"),
    )


@contextmanager
def progress_bar() -> Iterator[Callable[[str], None]]:
    """A line on a terminal that follows the steps; nothing elsewhere."""
    moving = sys.stderr.isatty()

    def show(step: str) -> None:
        if moving:
            width = shutil.get_terminal_size().columns - 1
            share = STEPS.index(step) / len(STEPS) if step in STEPS else 0.0
            print(f"\r{f'{blocks(share, 20)}  {step}'[:width]:<{width}}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if moving:
            print(f"\r{'':<{shutil.get_terminal_size().columns - 1}}\r", end="", file=sys.stderr, flush=True)


def text(report: BenchReport, paint: Paint, width: int) -> Iterator[str]:
    yield paint(f"{report.model} on {report.board}", "bold")
    yield from (f"{name} {fact}" for name, fact in report.facts if fact and name in ("librkllmrt", "NPU driver"))
    yield ""
    yield from table([COLUMNS, *(cells(row) for row in report.rows if not row.skipped)], range(1, len(COLUMNS)))
    for row in report.rows:
        if row.skipped:
            first, *more = wrap(f"{row.name}: {row.skipped}", width)
            yield from (paint(line, "grey") for line in (first, *more))
    yield ""
    load = "" if report.load_seconds is None else f"load {report.load_seconds:.1f} s"
    memory = "" if report.memory is None else f"memory {report.memory / MIB:.0f} MiB"
    spans = [
        f"{name} {low:.0f}" + (f" to {high:.0f}" if round(high) != round(low) else "")
        for name, low, high in ranges(report.timeline)
    ]
    yield from wrap(", ".join(part for part in (load, memory, *spans) if part), width)
    yield ""
    yield from (paint(line, "bold") for line in wrap(report.verdict.sentence, width))
    label = max((len(line.check) for line in report.verdict.brakes), default=0)
    for line in report.verdict.brakes:
        yield from check_lines(line.check, line.finding, label, paint, width)
