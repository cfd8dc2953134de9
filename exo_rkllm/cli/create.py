"""`exo-rkllm create`: make a model of another one, as a Modelfile says."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from exo_rkllm.catalogue import deriving, modelfile
from exo_rkllm.cli import place
from exo_rkllm.client import control
from exo_rkllm.errors import UsageError
from exo_rkllm.privileges import give_up_root


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the new model's name")
    parser.add_argument(
        "-f",
        "--file",
        metavar="FILE",
        type=Path,
        default=Path(modelfile.FILE),
        help="the Modelfile (default: Modelfile in this folder)",
    )
    place.argument(parser)
    parser.epilog = (
        "Of a Modelfile count FROM (a model that is here), SYSTEM, PARAMETER, TEMPLATE (in Jinja) and ADAPTER. The "
        "weights take no space again."
    )


def main(args: argparse.Namespace) -> int:
    text = text_of(args.file)
    if unused := modelfile.parse(text, str(args.file)).unused:
        print(f"({', '.join(unused)} of {args.file} has no effect.)", file=sys.stderr)
    daemon = control.find() if args.models is None else None
    if daemon is not None:
        name = daemon.post("/control/create", name=args.name, modelfile=text)["name"]
    else:
        catalogue = place.node(args.models).catalogue
        give_up_root(catalogue.directory)
        name = deriving.create(catalogue, args.name, text)
    print(f"{name} is ready. To chat with it: exo-rkllm run {name}")
    return 0


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "exo-rkllm create NAME -f FILE") from None
