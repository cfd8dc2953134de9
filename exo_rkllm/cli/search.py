"""`exo-rkllm search`: find models for this board on Hugging Face or a mirror."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from exo_rkllm.board.counters import read_gauges
from exo_rkllm.board.detect import detect
from exo_rkllm.board.sources import find_sources
from exo_rkllm.catalogue.choice import BoardRoom
from exo_rkllm.catalogue.gallery import GalleryItem, installed_files, search
from exo_rkllm.catalogue.hub import Access, Hub
from exo_rkllm.cli import place
from exo_rkllm.cli.output import Paint, size, table, terminal_width, wrap
from exo_rkllm.config import load
from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.socs import family_of


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", metavar="WORD", nargs="*", help="words that the name has, such as qwen3 4b")
    parser.add_argument(
        "--soc", metavar="SOC", help="the SoC the files are for, such as rk3588 (default: this board's)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    place.argument(parser)
    parser.epilog = "HF_ENDPOINT selects a mirror. The first column is what exo-rkllm pull takes."


def main(args: argparse.Namespace) -> int:
    root = Path(load(os.environ).board.root)
    board = detect(root)
    reading = read_gauges(find_sources(root, board))
    soc = family_of(args.soc) if args.soc else "" if board.soc is None else board.soc.name
    here = BoardRoom(soc, reading.memory_total, reading.memory_available) if board.soc is not None else BoardRoom(soc)
    items = asyncio.run(found(" ".join(args.words), here, args))
    if args.json:
        print(json.dumps({"soc": soc, "models": [asdict(item) for item in items]}, indent=2))
    elif items:
        print(*text(items, Paint(sys.stdout), terminal_width(sys.stdout)), sep="\n")
    else:
        print(f"The Hub has no .rkllm file for {' '.join(args.words) or 'anything'}. Try fewer words.")
    return 0 if items else 1


async def found(words: str, room: BoardRoom, args: argparse.Namespace) -> tuple[GalleryItem, ...]:
    try:
        entries = place.node(args.models, plugged=False).catalogue.list()
    except ExoRkllmError:  # a folder that cannot be read has nothing to mark
        entries = ()
    async with Hub(Access.of(os.environ)) as hub:
        return await search(hub, words, room, installed_files({entry.id: entry.card.source for entry in entries}))


def text(items: Sequence[GalleryItem], paint: Paint, width: int) -> Iterator[str]:
    rows = [("PULL", "SIZE", "QUANTIZED", "FETCHED")]
    rows += [
        (_short(item), size(item.size) if item.size else "", item.quantization, str(item.downloads)) for item in items
    ]
    head, *lines = table(rows, (1, 3))
    yield paint(head, "bold")
    for item, line in zip(items, lines, strict=True):
        yield paint(line, "grey") if item.unfit else line
        remarks = [
            f"is here: {item.id}." if item.id else "",
            "sees pictures." if item.sees else "",
            item.unfit,
            item.note,
        ]
        if remark := " ".join(filter(None, remarks)):
            yield from (f"    {part}" for part in wrap(remark[0].upper() + remark[1:], width - 4))


def _short(item: GalleryItem) -> str:
    """The short name where there is one, and without the file where the repository alone says enough."""
    return item.short or item.target
