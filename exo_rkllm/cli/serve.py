"""`exo-rkllm serve`: run the daemon in the foreground, as systemd and containers expect."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from exo_rkllm.config import load


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="use this file instead of the one in /etc")


def main(args: argparse.Namespace) -> int:
    config = load(os.environ, args.config)  # before the heavy imports, so that a mistake is reported at once
    from exo_rkllm.daemon.server import run

    run(config, os.environ, lambda: load(os.environ, args.config))
    return 0
