"""`exo-rkllm board`: describe this machine and its NPU, with the reason for each value that cannot be read."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from exo_rkllm.board.counters import Clock, Reading, read
from exo_rkllm.board.detect import Board, Npu, detect
from exo_rkllm.board.sources import find_sources
from exo_rkllm.cli.output import Paint, error_value, repair_lines, terminal_width, wrap
from exo_rkllm.config import load
from exo_rkllm.socs import default_cpus

GIB = 1 << 30


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", metavar="DIR", type=Path, help="read /sys, /proc and /dev below this folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(args: argparse.Namespace) -> int:
    root = args.root or Path(load(os.environ).board.root)
    board = detect(root)
    reading = read(find_sources(root, board))
    if args.json:
        print(json.dumps(as_json(board, reading), indent=2))
    else:
        print(*text(board, reading, Paint(sys.stdout), terminal_width(sys.stdout)), sep="\n")
    return 0


def as_json(board: Board, reading: Reading) -> dict[str, Any]:
    reason = board.unavailable_reason()
    return {
        **asdict(board),
        "title": board.title,
        "usable": reason is None,
        "unavailable_reason": error_value(reason),
        "reading": asdict(reading),
    }


def text(board: Board, reading: Reading, paint: Paint, width: int) -> Iterator[str]:
    yield paint(board.title, "bold")
    yield from _table(_rows(board, reading), width)
    if reading.absent and board.npu is not None:
        yield ""
        yield "Not available here:"
        yield from _table(((name.replace("_", " "), why) for name, why in reading.absent.items()), width)
    reason = board.unavailable_reason()
    yield ""
    if reason is None:
        yield paint("RKLLM models can run here.", "green") + " To check everything else: exo-rkllm doctor"
    else:
        yield from (paint(line, "red") for line in wrap(reason.sentence, width))
        yield from repair_lines(reason.hint, paint, width, "  ")


def _table(rows: Iterator[tuple[str, str]], width: int) -> Iterator[str]:
    present = [(name, value) for name, value in rows if value]
    label = max((len(name) for name, _ in present), default=0)
    for name, value in present:
        first, *more = wrap(value, width - label - 4)
        yield f"  {name:<{label}}  {first}"
        yield from (" " * (label + 4) + line for line in more)


def _rows(board: Board, reading: Reading) -> Iterator[tuple[str, str]]:
    yield "SoC", _soc(board)
    yield "compatible", ", ".join(board.compatible)
    yield "kernel", board.kernel
    yield "container", board.container
    yield "state", _state(board)
    if board.npu is not None:
        yield from _npu_rows(board.npu, reading)
        present = board.soc.cpus if board.soc else os.cpu_count() or 1
        cpus = default_cpus(board.soc, range(present), present)
        yield "CPU threads", f"on CPU {', '.join(map(str, cpus))}"
    yield "memory", _memory(reading)
    yield "memory clock", _clock(reading.ddr)
    yield "temperature", f"{reading.celsius:.1f} degrees ({reading.zone})" if reading.celsius is not None else ""
    for slot in board.coprocessors:
        yield "co-processor", f"RK182x on PCI {slot}, which RKLLM does not drive"


def _state(board: Board) -> str:
    """The sentence stands at the end, with its repair, where it is why the NPU is unavailable."""
    reason = board.unavailable_reason()
    unavailable = reason is not None and reason.sentence == board.sentence
    return board.state if unavailable else f"{board.state}: {board.sentence}"


def _soc(board: Board) -> str:
    if board.soc is None:
        return board.soc_name.upper()
    return f"{board.soc_name.upper()}, NPU with {_cores(board.soc.cores)}, {board.soc.tops:g} TOPS (int8)"


def _cores(number: int) -> str:
    return f"{number} core{'' if number == 1 else 's'}"


def _npu_rows(npu: Npu, reading: Reading) -> Iterator[tuple[str, str]]:
    cores = _cores(npu.cores) if npu.cores else "cores not known"
    yield "NPU", f"{npu.device}, {cores}, {'IOMMU' if npu.iommu else 'no IOMMU: models live in CMA'}"
    yield "driver", f"{npu.driver} {npu.version} ({npu.build})".replace("  ", " ")
    yield "device nodes", ", ".join(node.path + ("" if node.present else " (missing)") for node in npu.nodes)
    yield "NPU clock", _clock(reading.clock)
    if reading.powered is not None:
        yield "NPU power", f"{'on' if reading.powered else 'off'} ({reading.status})"
    if reading.load is not None:
        yield "NPU load", ", ".join(f"core {core}: {part:.0%}" for core, part in enumerate(reading.load))
    if reading.volts is not None:
        yield "NPU voltage", f"{reading.volts:.3f} V"


def _clock(clock: Clock | None) -> str:
    if clock is None:
        return ""
    top = f" of {clock.top / 1e6:.0f}" if clock.top else ""
    limit = f", limited to {clock.maximum / 1e6:.0f}" if clock.throttled and clock.maximum else ""
    return f"{clock.hertz / 1e6:.0f}{top} MHz{limit} ({clock.governor})"


def _memory(reading: Reading) -> str:
    if reading.memory_total is None or reading.memory_available is None:
        return ""
    cma = ""
    if reading.cma_total is not None and reading.cma_free is not None:
        cma = f"; CMA {reading.cma_free >> 20} of {reading.cma_total >> 20} MiB free"
    return f"{reading.memory_available / GIB:.1f} of {reading.memory_total / GIB:.1f} GiB available{cma}"
