"""`exo-rkllm config`: check, show or reload the configuration."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from exo_rkllm.config import load


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("check", "show", "reload"),
        help="check: find mistakes.  show: print the settings in force.  reload: apply changes to the daemon",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="use this file instead of the one in /etc")
    parser.add_argument("--defaults", action="store_true", help="with show: print a commented file with every setting")
    parser.add_argument("--page", action="store_true", help="with show: print docs/configuration.md")


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
    if config.files:
        print(*config.files, "The configuration is valid.", sep="\n")
    else:
        print("There is no configuration file; every setting has its default.")
    return 0


def reload() -> int:
    from exo_rkllm.client.control import daemon

    answer = daemon().post("/control/reload")
    print(f"Applied: {', '.join(answer['changed'])}." if answer["changed"] else "Nothing changed.")
    if answer["restart"]:
        print(f"Needs a restart: {', '.join(answer['restart'])}.\n  try: sudo systemctl restart exo-rkllm")
    return 0
