"""`exo-rkllm load`: bring a model into memory before somebody asks for it."""

from __future__ import annotations

import argparse
import sys

from exo_rkllm.cli.figures import seconds_of
from exo_rkllm.client.control import daemon


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name that `exo-rkllm models` lists")
    parser.add_argument(
        "--keep-alive", metavar="TIME", type=seconds_of, help="stay loaded so long when idle: 90s, 5m, 1h, -1 for ever"
    )
    parser.add_argument("--pin", action="store_true", help="stay loaded, and never make room for another model")


def main(args: argparse.Namespace) -> int:
    client = daemon()
    print(f"loading {args.model} ...", file=sys.stderr)
    client.post("/control/load", model=args.model, keep_alive=args.keep_alive, pin=args.pin or None)
    print(f"{args.model} is ready.")
    return 0
