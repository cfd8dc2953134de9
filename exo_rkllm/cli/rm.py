"""`exo-rkllm rm`: remove models and free their disk space."""

from __future__ import annotations

import argparse

from exo_rkllm.cli import place
from exo_rkllm.cli.output import size
from exo_rkllm.client import control
from exo_rkllm.privileges import give_up_root


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models_", metavar="NAME", nargs="+", help="full names from `exo-rkllm models`")
    place.argument(parser)


def main(args: argparse.Namespace) -> int:
    daemon = control.find() if args.models is None else None
    if daemon is not None:  # which unloads the model first, and owns the folder
        for name in args.models_:
            print(f"removed {daemon.post('/control/rm', model=name)['removed']}")
        return 0
    catalogue = place.node(args.models, plugged=False).catalogue
    give_up_root(catalogue.directory)
    names = [catalogue.removable(name) for name in args.models_]  # all or none: one wrong name removes nothing
    sizes = {entry.id: entry.card.weights.size for entry in catalogue.list() if entry.card.weights}
    for name in names:
        catalogue.remove(name)
        print(f"removed {name}" + (f", {size(sizes[name])}" if name in sizes else ""))
    return 0
