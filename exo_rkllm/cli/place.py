"""Which models folder a verb works on."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from exo_rkllm.catalogue.contributions import from_plugins
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.cli.extras import plugged
from exo_rkllm.config import load, places
from exo_rkllm.config.places import SYSTEM_STATE


def argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", type=Path, metavar="DIR", help="this models folder, not the configured one")


def catalogue(args: argparse.Namespace) -> Catalogue:
    return standing(args.models)


def standing(folder: Path | None = None) -> Catalogue:
    return Catalogue(folder or configured(), from_plugins(plugged()))


def configured(system: Path = SYSTEM_STATE) -> Path:
    """Where nothing is configured: the service's models for root and members of its group, who may look there and have
    no daemon of their own; everybody else's are in their home."""
    folder, here = Path(load(os.environ).models.directory), places(os.environ)
    own_daemon = here.sockets[0] != here.sockets[-1] and os.access(here.sockets[0], os.F_OK)
    if folder == here.models and not own_daemon and os.access(system, os.R_OK | os.X_OK):
        return system / "models"
    return folder
