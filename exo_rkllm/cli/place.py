"""Which models folder a verb works on."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from exo_rkllm.catalogue.brought import brought
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.cli.extras import plugged
from exo_rkllm.config import load


def argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", type=Path, metavar="DIR", help="this models folder, not the configured one")


def catalogue(args: argparse.Namespace) -> Catalogue:
    folder: Path | None = args.models
    return Catalogue(folder or Path(load(os.environ).models.directory), brought(plugged()))
