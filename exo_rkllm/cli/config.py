"""`exo-rkllm config`: what is configured, whether it is right, and taking it over."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from exo_rkllm.config import load


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("check", "show", "reload"),
        help="check: is it right?  show: what is in force here.  reload: the running daemon takes it over",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="this file, not the one in /etc")
    parser.add_argument("--defaults", action="store_true", help="with show: a commented file with every setting")
    parser.add_argument("--page", action="store_true", help="with show: the manual's page of all settings")


def main(args: argparse.Namespace) -> int:
    if args.action == "reload":
        return reload()
    from exo_rkllm.config import document

    if args.action == "show" and (args.defaults or args.page):
        print(document.page() if args.page else document.default_file(), end="")
        return 0
    config = load(os.environ, args.config)
    if args.action == "show":
        print(document.in_force(config), end="")
        return 0
    print("\n".join([*config.files, "The configuration is right."] if config.files else ["All is default, and right."]))
    return 0


def reload() -> int:
    from exo_rkllm.client.control import daemon

    answer = daemon().post("/control/reload")
    print(f"Taken over: {', '.join(answer['changed'])}." if answer["changed"] else "Nothing changed.")
    if answer["restart"]:
        print(f"Waits for a restart: {', '.join(answer['restart'])}.\n  try: sudo systemctl restart exo-rkllm")
    return 0
