"""`python -m bench [NAME ...]`: every table, or the named ones."""

from __future__ import annotations

import importlib
import sys

TABLES = ("tokens", "dispatch", "http", "start", "callback", "dialogue", "daemon")


def main(names: list[str]) -> None:
    for name in names or TABLES:
        importlib.import_module(f"bench.{name}").main()


main(sys.argv[1:])
