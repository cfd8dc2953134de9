"""`exo-rkllm pull`: fetch a model from Hugging Face or a mirror of it."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncGenerator

from exo_rkllm.board.detect import detect
from exo_rkllm.catalogue.hub import Access
from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.catalogue.pull import PullTarget, pull
from exo_rkllm.cli import place, progress
from exo_rkllm.client import control
from exo_rkllm.socs import family_of


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="ORG/REPO[:FILE]", help="a repository, and a file of it or a word of its name")
    parser.add_argument("--name", default="", metavar="NAME", help="what to call it; by default as its file is called")
    parser.add_argument("--soc", metavar="SOC", help="choose the file for this SoC (rk3588), not for this board's")
    parser.add_argument("--replace", action="store_true", help="fetch it again where it is here already")
    parser.add_argument("--json", action="store_true", help="one JSON object a line for each step")
    place.argument(parser)
    parser.epilog = (
        "A pull that was interrupted goes on where it ended. HF_ENDPOINT names a mirror, HF_TOKEN opens repositories "
        "that ask who you are."
    )


def soc(args: argparse.Namespace) -> str:
    """This board's, or empty on a machine that has no NPU: then the repository has to leave no choice."""
    if args.soc is not None:
        return family_of(args.soc)
    found = detect().soc
    return found.name if found is not None else ""


def main(args: argparse.Namespace) -> int:
    daemon = control.find() if args.models is None else None
    steps = here(args) if daemon is None else there(daemon, args)
    asyncio.run(progress.follow(steps, as_json=args.json))
    return 0


async def there(daemon: control.Client, args: argparse.Namespace) -> AsyncGenerator[PullProgress, None]:
    """By the daemon, whose models folder this user need not be able to write; its answer blocks only ourselves."""
    asked = {"soc": soc(args) if args.soc else "", "name": args.name, "replace": args.replace}
    who = {"endpoint": os.environ.get("HF_ENDPOINT", ""), "token": os.environ.get("HF_TOKEN", "")}
    for step in daemon.stream("POST", "/control/pull", model=args.model, **asked, **who):
        yield PullProgress(**step)


def here(args: argparse.Namespace) -> AsyncGenerator[PullProgress, None]:
    return pull(
        place.node(args.models).catalogue,
        PullTarget.parse(args.model),
        Access.of(os.environ),
        soc=soc(args),
        name=args.name,
        replace=args.replace,
    )
