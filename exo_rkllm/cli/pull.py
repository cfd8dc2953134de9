"""`exo-rkllm pull`: download a model from Hugging Face or a mirror."""

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
from exo_rkllm.privileges import give_up_root


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="ORG/REPO[:FILE]",
        help="a repository and part of a file's name, its page's address, or a short name such as qwen3:1.7b",
    )
    parser.add_argument("--name", default="", metavar="NAME", help="the model's name (default: from the file's name)")
    parser.add_argument("--soc", metavar="SOC", help="the SoC the file is for, such as rk3588 (default: this board's)")
    parser.add_argument("--replace", action="store_true", help="download it again if it is already installed")
    parser.add_argument("--json", action="store_true", help="print one JSON object per step")
    place.argument(parser)
    parser.epilog = (
        "An interrupted pull resumes where it stopped. HF_ENDPOINT selects a mirror; HF_TOKEN gives access to gated "
        "repositories."
    )


def soc(args: argparse.Namespace) -> str:
    """The SoC of --soc or of this board; empty without an NPU, where the repository must contain a single file."""
    if args.soc is not None:
        return str(args.soc)
    local = detect().soc
    return local.name if local is not None else ""


def main(args: argparse.Namespace) -> int:
    daemon = control.find() if args.models is None else None
    if daemon is None:
        asyncio.run(progress.follow(pull_here(args), as_json=args.json))
    else:
        pull_by_daemon(daemon, args)
    return 0


def pull_by_daemon(daemon: control.Client, args: argparse.Namespace) -> None:
    """Let the daemon pull: this user may not be able to write to its models folder. Without a loop, whose handler of
    SIGINT would wait for the daemon's next step."""
    options = {"soc": soc(args) if args.soc else "", "name": args.name, "replace": args.replace}
    account = {"endpoint": os.environ.get("HF_ENDPOINT", ""), "token": os.environ.get("HF_TOKEN", "")}
    with progress.shown(as_json=args.json) as show:
        for step in daemon.stream("POST", "/control/pull", model=args.model, **options, **account):
            show(PullProgress(**step))


def pull_here(args: argparse.Namespace) -> AsyncGenerator[PullProgress, None]:
    catalogue = place.node(args.models).catalogue
    give_up_root(catalogue.directory)
    return pull(
        catalogue,
        PullTarget.of(args.model, soc(args)),
        Access.of(os.environ),
        soc=soc(args),
        name=args.name,
        replace=args.replace,
    )
