"""`exo-rkllm import`: make catalogue entries of what is on this machine."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from exo_rkllm.catalogue.hub import Access
from exo_rkllm.catalogue.importing import import_
from exo_rkllm.cli import place, progress


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", type=Path, help="a .rkllm file, a folder with one, or rkllama's models")
    parser.add_argument("--name", default="", metavar="NAME", help="what to call it; by default as its file is called")
    parser.add_argument("--move", action="store_true", help="take the original away once the entry is there")
    parser.add_argument("--replace", action="store_true", help="put it in the place of an entry of the same name")
    parser.add_argument("--offline", action="store_true", help="do not fetch tokenizer files that are missing")
    parser.add_argument("--json", action="store_true", help="one JSON object a line for each step")
    place.argument(parser)
    parser.epilog = "On one file system the entry shares the original's bytes; elsewhere the file is copied."


def main(args: argparse.Namespace) -> int:
    access = None if args.offline else Access.of(os.environ)
    steps = import_(
        place.node(args.models).catalogue, args.path, access, name=args.name, move=args.move, replace=args.replace
    )
    asyncio.run(progress.follow(steps, as_json=args.json))
    return 0
