"""`exo-rkllm models`: what is in the models folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from exo_rkllm.catalogue.names import SUFFIXES
from exo_rkllm.catalogue.store import Entry
from exo_rkllm.cli import place
from exo_rkllm.cli.progress import amount


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON list")
    place.argument(parser)


def main(args: argparse.Namespace) -> int:
    node = place.node(args.models, plugged=False)
    listing = node.catalogue.scan()
    if any(entry.path is not None and entry.path.suffix.lower() not in SUFFIXES for entry in listing.entries):
        node.use_plugins(place.load_plugins())  # one of them may know whose file that is
        listing = node.catalogue.scan()
    if args.json:
        print(json.dumps([row(entry) for entry in listing.entries], indent=2))
    elif listing.entries:
        print(table(listing.entries))
    else:
        print(f"No models in {node.catalogue.directory}. exo-rkllm pull ORG/REPO fetches one.")
    for problem in listing.problems:
        print(f"{problem.folder.name}: {problem.error.sentence}\n  try: {problem.error.hint}", file=sys.stderr)
    return 1 if listing.problems else 0


def row(entry: Entry) -> dict[str, object]:
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


def table(entries: Sequence[Entry]) -> str:
    rows = [("NAME", "SIZE", "FOR", "CONTEXT", "FROM")]
    for entry in entries:
        card = entry.card
        made_for = " ".join(word for word in (card.platform, card.quantization) if word) or card.engine
        size = amount(card.weights.size) if card.weights else "-"
        origin = card.source.partition("@")[0] or card.base_model or "-"
        rows.append((card.id, size, made_for, str(card.context or "-"), origin))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if at in (1, 3) else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(one, widths, strict=True))
        ).rstrip()
        for one in rows
    )
