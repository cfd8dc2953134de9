"""What was captured on a wire of real exo nodes and a prototype of this node (see transcripts/README.md)."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "transcripts"


@dataclass(frozen=True)
class Sample:
    """One message of each type; `source` is who sent it, `prototype` or `exo`."""

    topic: str
    type: str
    source: str
    message: Any


@dataclass(frozen=True)
class Record:
    """`direction` as seen from the prototype: in, out, live (a liveliness token), note (a session adopted)."""

    at: float
    direction: str
    topic: str
    message: Any


def _lines(name: str) -> Iterator[Any]:
    with lzma.open(FOLDER / name, "rt") as lines:
        yield from map(json.loads, lines)


@cache
def samples() -> tuple[Sample, ...]:
    return tuple(Sample(line["topic"], line["type"], line["from"], line["msg"]) for line in _lines("samples.jsonl.xz"))


@cache
def scenarios() -> dict[str, tuple[Record, ...]]:
    found: dict[str, list[Record]] = {}
    for name, *record in _lines("scenarios.jsonl.xz"):
        found.setdefault(name, []).append(Record(*record))
    return {name: tuple(records) for name, records in found.items()}


def packets() -> list[Any]:
    return [json.loads(line) for line in (FOLDER / "packets.jsonl").read_text().splitlines()]


def requests() -> list[Any]:
    """What exo's endpoints make of the bodies of their clients: `endpoint`, `what` and `task_params`."""
    return [json.loads(line) for line in (FOLDER / "requests.jsonl").read_text().splitlines()]


def openapi() -> Any:
    """The part of an exo node's `/openapi.json` that is compared, names only."""
    return json.loads((FOLDER / "openapi.json").read_text())
