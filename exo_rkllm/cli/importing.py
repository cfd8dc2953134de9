"""`exo-rkllm import`: add model files from this machine to the catalogue."""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from exo_rkllm.catalogue.hub import Access
from exo_rkllm.catalogue.importing import import_
from exo_rkllm.cli import place, progress


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", type=Path, help="a model file, a folder with one, or rkllama's models")
    parser.add_argument("--name", default="", metavar="NAME", help="the model's name (default: from the file's name)")
    parser.add_argument("--move", action="store_true", help="remove the original afterwards")
    parser.add_argument("--replace", action="store_true", help="replace a model of the same name")
    parser.add_argument("--offline", action="store_true", help="do not download missing tokenizer files")
    parser.add_argument("--json", action="store_true", help="print one JSON object per step")
    place.argument(parser)
    parser.epilog = (
        "On the same file system the import shares the original's bytes if you may link it and the models folder's "
        "owner may read it; otherwise it copies the file."
    )


def main(args: argparse.Namespace) -> int:
    access = None if args.offline else Access.of(os.environ)
    steps = import_(
        place.node(args.models).catalogue, args.path, access, name=args.name, move=args.move, replace=args.replace
    )
    asyncio.run(progress.follow(steps, as_json=args.json))
    return 0
