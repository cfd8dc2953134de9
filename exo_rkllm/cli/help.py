"""`exo-rkllm help`: the verbs, or the options of one."""

from __future__ import annotations

import argparse

from exo_rkllm.cli import parser as top_parser
from exo_rkllm.cli import verb_of, verb_parser


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("verb", metavar="VERB", nargs="?", help="a verb, such as run")


def main(args: argparse.Namespace) -> int:
    (verb_parser(verb_of(args.verb)) if args.verb else top_parser()).print_help()
    return 0
