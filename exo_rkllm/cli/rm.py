"""`exo-rkllm rm`: remove models and free their space."""

from __future__ import annotations

import argparse

from exo_rkllm.cli import place
from exo_rkllm.cli.progress import amount
from exo_rkllm.client import control


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models_", metavar="NAME", nargs="+", help="names that `exo-rkllm models` lists, in full")
    place.argument(parser)


def main(args: argparse.Namespace) -> int:
    daemon = control.find() if args.models is None else None
    if daemon is not None:  # it unloads what is loaded, and owns the folder
        for name in args.models_:
            print(f"removed {daemon.post('/control/rm', model=name)['removed']}")
        return 0
    catalogue = place.node(args.models, plugged=False).catalogue
    found = [catalogue.removable(name) for name in args.models_]  # all or none: a name that is wrong removes nothing
    sizes = {entry.id: entry.card.weights.size for entry in catalogue.list() if entry.card.weights}
    for name in found:
        catalogue.remove(name)
        print(f"removed {name}" + (f", {amount(sizes[name])}" if name in sizes else ""))
    return 0
