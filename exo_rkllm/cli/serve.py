"""`exo-rkllm serve`: run the daemon in the foreground, as systemd and containers expect."""

from __future__ import annotations

import argparse
import gc
import os
from pathlib import Path

from exo_rkllm.config import load


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="use this file instead of the one in /etc")


def main(args: argparse.Namespace) -> int:
    config = load(os.environ, args.config)  # before the heavy imports, so that a mistake is reported at once
    gc.disable()  # until `Server.startup` is through: looking at all that is imported is a tenth of the start
    from exo_rkllm.daemon import certificates

    with certificates.postponed():
        from exo_rkllm.daemon.server import run

    run(config, os.environ, lambda: load(os.environ, args.config))
    return 0
