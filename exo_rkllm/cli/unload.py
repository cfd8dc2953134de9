"""`exo-rkllm unload`: free a model's memory after its running answers have ended."""

from __future__ import annotations

import argparse

from exo_rkllm.client.control import daemon


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name from `exo-rkllm ps`")


def main(args: argparse.Namespace) -> int:
    was_loaded = daemon().post("/control/unload", model=args.model)["unloaded"]
    print(f"{args.model} is unloaded." if was_loaded else f"{args.model} was not loaded.")
    return 0
