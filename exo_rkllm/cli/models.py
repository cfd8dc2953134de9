"""`exo-rkllm models`: list the installed models."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.catalogue.names import SUFFIXES
from exo_rkllm.cli import place
from exo_rkllm.cli.output import size, table


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    place.argument(parser)


def main(args: argparse.Namespace) -> int:
    node = place.node(args.models, plugged=False)
    listing = node.catalogue.scan()
    if any(entry.path is not None and entry.path.suffix.lower() not in SUFFIXES for entry in listing.entries):
        node.use_plugins(place.load_plugins())  # one of them may know the file
        listing = node.catalogue.scan()
    if args.json:
        print(json.dumps([as_json(entry) for entry in listing.entries], indent=2))
    elif listing.entries:
        print(*table(rows(listing.entries), numbers={1, 3}), sep="\n")
    else:
        print(f"No models in {node.catalogue.directory}. To download one: exo-rkllm pull ORG/REPO")
    for problem in listing.problems:
        print(f"{problem.folder.name}: {problem.error.sentence}\n  try: {problem.error.hint}", file=sys.stderr)
    return 1 if listing.problems else 0


def as_json(entry: Entry) -> dict[str, object]:
    card = entry.card
    return {
        "id": card.id,
        "name": card.name,
        "engine": card.engine,
        "size": card.weights.size if card.weights else 0,
        "platform": card.platform,
        "quantization": card.quantization,
        "context": card.context,
        "base_model": card.base_model,
        "source": card.source,
        "path": str(entry.path or ""),
    }


def rows(entries: Sequence[Entry]) -> list[Sequence[str]]:
    return [("NAME", "SIZE", "FOR", "CONTEXT", "FROM"), *map(_row, entries)]


def _row(entry: Entry) -> Sequence[str]:
    card = entry.card
    target = " ".join(word for word in (card.platform, card.quantization) if word) or card.engine
    origin = card.source.partition("@")[0] or card.base_model or "-"
    return (card.id, size(card.weights.size) if card.weights else "-", target, str(card.context or "-"), origin)
