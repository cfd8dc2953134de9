"""`exo-rkllm load`: load a model into memory before the first request for it."""

from __future__ import annotations

import argparse
import sys

from exo_rkllm.client.control import daemon
from exo_rkllm.schema.quantities import Seconds
from exo_rkllm.schema.specs import FieldError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name from `exo-rkllm models`")
    parser.add_argument(
        "--keep-alive",
        metavar="TIME",
        type=seconds_of,
        help="time to stay loaded when idle: 90s, 5m, 1h; -1 for ever",
    )
    parser.add_argument("--pin", action="store_true", help="keep it loaded; never unload it to make room")


def main(args: argparse.Namespace) -> int:
    client = daemon()
    print(f"loading {args.model} ...", file=sys.stderr)
    client.post("/control/load", model=args.model, keep_alive=args.keep_alive, pin=args.pin or None)
    print(f"{args.model} is ready.")
    return 0


def seconds_of(text: str) -> float:
    """For argparse: `90s`, `1h30m`, `1d`, or a number of seconds."""
    try:
        return Seconds().check(text, "the time")
    except FieldError as error:
        raise argparse.ArgumentTypeError(error.sentence) from None
