"""`exo-rkllm version`: the version of this command, and of the daemon where one answers."""

from __future__ import annotations

import argparse

from exo_rkllm import __version__
from exo_rkllm.client.control import VersionMismatch, find
from exo_rkllm.errors import ExoRkllmError


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def main(args: argparse.Namespace) -> int:
    print(f"exo-rkllm {__version__}")
    try:
        client = find()
        print("no daemon is running" if client is None else f"daemon {client.get('/control/version')['version']}")
    except VersionMismatch as error:
        print(f"{error.sentence} {error.hint}")
    except ExoRkllmError as error:
        print(error.sentence)
    return 0
