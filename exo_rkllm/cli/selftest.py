"""`exo-rkllm selftest`: measure what only a real board can show, and write a report."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from exo_rkllm.assembly import is_file
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.board.detect import detect
from exo_rkllm.board.sources import find_sources
from exo_rkllm.cli import place
from exo_rkllm.cli.doctor import check_lines, configured_catalogue
from exo_rkllm.cli.output import Paint, terminal_width, write_report
from exo_rkllm.client.control import DaemonStatus, daemon_status
from exo_rkllm.config import load
from exo_rkllm.doctor import runtimes, selftest
from exo_rkllm.doctor.checks import diagnose
from exo_rkllm.doctor.identity import identity_for
from exo_rkllm.doctor.measure import Bench, keep
from exo_rkllm.doctor.probes import PROBES, HardwareProbe
from exo_rkllm.doctor.runtimes import RuntimeTrial
from exo_rkllm.doctor.scene import look
from exo_rkllm.doctor.selftest import SelftestOutcome
from exo_rkllm.errors import Busy, CardError, ExoRkllmError, RuntimeMissing, UsageError
from exo_rkllm.runtime.selection import OPTION


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="NAME|FILE", help="a small model to measure with; without one, only files are read"
    )
    parser.add_argument("--only", metavar="CHECK", action="append", help="run only this check; repeatable")
    parser.add_argument(
        "--vision",
        action="store_true",
        help="show a model pictures, and nothing else; without --model, the first one that sees",
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="the report (default: a new file in this folder)")
    parser.add_argument("--root", metavar="DIR", type=Path, help="read /sys, /proc and /dev below this folder")
    parser.add_argument("--list", action="store_true", help="list the checks and exit")
    parser.add_argument(
        "--runtimes",
        metavar="NAME|FILE",
        help="instead, try this model with each installed librkllmrt, and write into its card which one works",
    )
    parser.epilog = (
        "Nothing is changed on the machine, but what was found out about the model is kept beside its file, and by "
        "--runtimes in its card. Exit code: 0 if no check failed (with --runtimes: if one version works), 1 otherwise."
    )


def main(args: argparse.Namespace) -> int:
    probes = select([*(args.only or ()), *(["vision"] if args.vision else ())])
    if args.list:
        width = max(len(probe.key) for probe in probes)
        print(*(f"{probe.key:<{width}}  {probe.kind:<8}  {probe.question}" for probe in probes), sep="\n")
        return 0
    if args.runtimes is not None:
        return try_runtimes(args.runtimes, args.root)
    config = load(os.environ)
    root = args.root or Path(config.board.root)
    board = detect(root)
    service = daemon_status(os.environ)
    lines: list[str] = []
    bench = None
    name = args.model or (seeing_model() if args.vision else None)
    if name is not None:
        refuse_company(service)
        bench = Bench(board, find_sources(root, board), lambda: engine(name, root, lines))
    paint, columns = Paint(sys.stdout), terminal_width(sys.stdout)
    width = max(len(probe.key) for probe in probes)

    def show(outcome: SelftestOutcome) -> None:
        print(*check_lines(outcome.probe.key, outcome.finding, width, paint, columns), sep="\n", flush=True)

    outcomes = selftest.run(probes, board, root, bench, show)
    if bench is not None and bench.answers:
        keep_answers(bench)
    now = time.time()
    report = args.output or Path(time.strftime("exo-rkllm-selftest-%Y%m%d-%H%M%S.md", time.localtime(now)))
    doctor = diagnose(look(os.environ, identity_for(None), service, configured_catalogue(), args.root, name or ""))
    write_report(report, selftest.page(board, doctor, outcomes, lines, now))
    print(f"\nThe report is {report}: attach it to an issue.")
    return 1 if any(outcome.finding.level == "fail" for outcome in outcomes) else 0


def keep_answers(bench: Bench) -> None:
    path = bench.engine().model.path
    if path is None:
        return
    try:
        print(f"\nWhat every load of {path.name} is to know is in {keep(path, bench.answers)}.")
    except OSError as error:
        print(f"\nWhat was found could not be kept beside {path}: {error.strerror}. Run it again with sudo.")


def try_runtimes(name: str, root: Path | None) -> int:
    """One line a version as it was tried, then what was written into the card."""
    refuse_company(daemon_status(os.environ))
    logging.getLogger("exo_rkllm").addHandler(logging.NullHandler())  # each failure is a line of the answer
    node = place.node(plugged=not is_file(name), root=root)
    model = node.find(name)
    spec = node.engines.get(node.engines.name_for(model))
    if spec is None or spec.name != "rkllm":
        raise UsageError(f"{model.id} does not run on librkllmrt.", f"exo-rkllm selftest --model {name}")
    node.search().require()
    places = node.search().installed
    preferred = ""
    with suppress(RuntimeMissing):  # the card names a version that is not there
        choice = node.runtime_of(model)
        preferred = "" if choice is None else choice.release
    paint, columns = Paint(sys.stdout), terminal_width(sys.stdout)
    width = max(len(place.release) for place in places)

    def show(trial: RuntimeTrial) -> None:
        print(*check_lines(trial.release, trial.finding, width, paint, columns), sep="\n", flush=True)

    trials = asyncio.run(runtimes.try_each(node, model, places, show))
    release = runtimes.best(trials, preferred)
    if not release:
        print(f"\n{model.id} works with none of them. Its card stays as it is.")
        return 1
    if is_file(name):
        print(f'\n{model.id} works with {release}. A card of it says so by {OPTION} = "{release}" under [options].')
        return 0
    try:
        card = node.catalogue.set_option(model.id, OPTION, release)
    except (ExoRkllmError, OSError) as error:
        reason = error.sentence if isinstance(error, ExoRkllmError) else f"{error.strerror}."
        raise CardError(
            f"{model.id} works with {release}, but its card could not be written. {reason}",
            f"sudo exo-rkllm selftest --runtimes {name}",
        ) from error
    print(f'\n{model.id} works with {release}: {card} now has {OPTION} = "{release}" under [options].')
    return 0


def select(only: list[str] | None) -> list[HardwareProbe]:
    keys = {probe.key for probe in PROBES}
    for key in only or ():
        if key not in keys:
            raise UsageError(f"There is no check {key!r}.", "exo-rkllm selftest --list")
    return [probe for probe in PROBES if not only or probe.key in only]


def seeing_model() -> str:
    """The first model of the catalogue with an encoder."""
    catalogue = configured_catalogue()
    for entry in () if catalogue is None else catalogue.list():
        if entry.vision is not None:
            return entry.id
    raise UsageError("No model here sees.", "exo-rkllm selftest --vision --model NAME, or pull one with its encoder")


def refuse_company(service: DaemonStatus) -> None:
    """A second copy of a model next to the daemon's would be measured for its neighbour's sake."""
    models = (service.status or {}).get("models", ())
    loaded = [str(model["name"]) for model in models if model.get("state") == "ready"]
    if loaded:
        raise Busy(f"The daemon has {', '.join(loaded)} loaded.", f"exo-rkllm unload {loaded[0]}, then again")


def engine(name: str, root: Path, lines: list[str]) -> RkllmEngine:
    node = place.node(plugged=not is_file(name), root=root, report=lines.extend)
    return RkllmEngine(node.find(name), node.host())
