"""`exo-rkllm cp`: give a model another name, which takes no space."""

from __future__ import annotations

import argparse

from exo_rkllm.catalogue import deriving
from exo_rkllm.cli import place
from exo_rkllm.client import control
from exo_rkllm.privileges import give_up_root


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name from `exo-rkllm models`")
    parser.add_argument("name", metavar="NAME", help="the other name")
    place.argument(parser)


def main(args: argparse.Namespace) -> int:
    daemon = control.find() if args.models is None else None
    if daemon is not None:  # which owns the folder
        name = daemon.post("/control/cp", model=args.model, name=args.name)["name"]
    else:
        catalogue = place.node(args.models).catalogue
        give_up_root(catalogue.directory)
        name = deriving.copy(catalogue, args.model, args.name)
    print(f"{name} is another name for {args.model}.")
    return 0
