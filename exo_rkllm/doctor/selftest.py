"""Runs the table of hardware probes and writes the outcome as a page to attach to an issue."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import shlex
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from exo_rkllm import __version__
from exo_rkllm.board.detect import Board
from exo_rkllm.doctor import measure, measure_prompt_cache, measure_vision
from exo_rkllm.doctor.measure import Bench
from exo_rkllm.doctor.probes import HardwareProbe
from exo_rkllm.doctor.report import DoctorReport, Finding, bad, from_error, good, poor, publishable, unseen
from exo_rkllm.errors import ExoRkllmError

# A command of the table reads a few files; if it takes longer, it hangs on a device.
COMMAND_SECONDS = 20.0
MEASURE_SECONDS = 600.0
MEASUREMENTS: Mapping[str, Callable[[Bench], object]] = {
    **measure.MEASUREMENTS,
    "prompt-cache": measure_prompt_cache.prompt_cache,
    "vision": measure_vision.vision,
}
MOST_LINES = 120
# Absolute paths in the table's commands, except /dev/null.
FILES = re.compile(r"(?<![\w./])/(?:sys|proc|dev(?!/null)|etc)\b")


@dataclass(frozen=True, slots=True)
class SelftestOutcome:
    """`output` is a command's; `finding` a measurement's, or why the probe was not made."""

    probe: HardwareProbe
    finding: Finding
    output: str = ""
    seconds: float = 0.0


def run(
    probes: Sequence[HardwareProbe],
    board: Board,
    root: Path,
    bench: Bench | None,
    on_outcome: Callable[[SelftestOutcome], None],
) -> list[SelftestOutcome]:
    """Run every probe in order. `bench` is None without a model; `on_outcome` gets each outcome as it comes."""
    here = root == Path("/")
    outcomes = []
    for probe in probes:
        began = time.monotonic()
        if probe.kind == "by hand":
            outcome = SelftestOutcome(probe, unseen("by hand: see firmware_notes/hardware-checks.md"))
        elif probe.kind == "measured":
            outcome = SelftestOutcome(probe, _measure(probe, bench), seconds=time.monotonic() - began)
        elif probe.live and not here:
            outcome = SelftestOutcome(probe, unseen("a board below another root has no running system"))
        elif probe.root and here and os.geteuid() != 0:
            outcome = SelftestOutcome(probe, unseen("needs root"))
        else:
            output = command(paths_below(root, fill_in(probe.command, board)))
            outcome = SelftestOutcome(probe, judge(probe, output, board), output, time.monotonic() - began)
        on_outcome(outcome)
        outcomes.append(outcome)
    return outcomes


def _measure(probe: HardwareProbe, bench: Bench | None) -> Finding:
    if bench is None:
        return unseen("needs --model NAME")
    measured = cast("Callable[[Bench], Awaitable[Finding]]", MEASUREMENTS[probe.key])
    try:
        return asyncio.run(asyncio.wait_for(measured(bench), MEASURE_SECONDS))
    except ExoRkllmError as error:
        return from_error(error)
    except asyncio.TimeoutError:
        return bad(f"No end after {MEASURE_SECONDS:.0f} s.", "exo-rkllm run NAME hello --verbose")


def judge(probe: HardwareProbe, output: str, board: Board) -> Finding:
    if re.search(fill_in(probe.shows, board, re.escape), output, re.MULTILINE):
        return good("as expected")
    return poor(f"Not as expected: {probe.expect}", "attach the report to an issue, its output is in there")


def paths_below(root: Path, command: str) -> str:
    """The command with the kernel's files below another root."""
    if root == Path("/"):
        return command
    return FILES.sub(lambda path: shlex.quote(str(root.absolute())) + path[0], command)


def fill_in(text: str, board: Board, quote: Callable[[str], str] = str) -> str:
    nodes = {node.kind: node.path for node in board.npu.nodes} if board.npu is not None else {}
    device = board.npu.device if board.npu is not None else "none.npu"
    values = {
        "{npu}": device,
        "{address}": device.split(".")[0],
        "{card}": nodes.get("card", "/dev/dri/card0"),
        "{render}": nodes.get("render", nodes.get("misc", "/dev/dri/renderD128")),
    }
    for name, value in values.items():
        text = text.replace(name, quote(value))
    return text


def command(line: str) -> str:
    """Its standard output and error together; a command that is missing or hangs says so there."""
    try:
        process = subprocess.run(
            ["sh", "-c", line],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return (late.output or b"").decode("utf-8", "replace") + f"\n(no end after {COMMAND_SECONDS:.0f} s)"
    return process.stdout.decode("utf-8", "replace")


def page(
    board: Board, doctor: DoctorReport, outcomes: Sequence[SelftestOutcome], lines: Sequence[str], now: float
) -> str:
    """The report in Markdown, in which no output can end a block."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    host = f"exo-rkllm {__version__}, Python {platform.python_version()}, {platform.machine()}, {board.kernel}"
    parts = [f"# exo-rkllm selftest: {board.title}", "", f"{stamp}, {host}", ""]
    parts += _table((outcome.probe.key, outcome.finding) for outcome in outcomes)
    parts += ["", "## doctor", "", *_table((line.check, replace(line.finding, repair="")) for line in doctor.lines)]
    for outcome in outcomes:
        if outcome.probe.kind == "command" and outcome.finding.level != "skip":
            parts += _section(outcome.probe.key, outcome.probe.question, outcome.output)
    parts += _section("library", "What the vendor's library said", "\n".join(lines))
    parts += _section("board", "exo-rkllm board --json", json.dumps(asdict(board), indent=2))
    return "\n".join(parts) + "\n"


def _table(rows: Iterable[tuple[str, Finding]]) -> Iterator[str]:
    yield "| check | result | what was seen |"
    yield "|---|---|---|"
    for name, finding in rows:
        repair = f" Try: {finding.repair}" if finding.repair else ""
        cell = " ".join((finding.fact + repair).replace("|", "\\|").split())
        yield f"| {name} | {finding.level} | {cell} |"


def _section(key: str, question: str, output: str) -> Iterator[str]:
    yield from ("", f"## {key}", "", f"{question}:", "")
    content = publishable(output).rstrip("\n").split("\n")
    for line in content[:MOST_LINES]:
        yield "    " + "".join(character if character.isprintable() else "�" for character in line)
    if len(content) > MOST_LINES:
        yield f"    ({len(content) - MOST_LINES} more lines)"
