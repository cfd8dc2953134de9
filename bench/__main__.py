"""`python -m bench [NAME ...]`: every table of a minute or two, or the named ones.

Made by name alone: peer, which wants another server, and the tables of the cluster, which take many minutes and need
root: cluster, cluster_fleet, cluster_log.
"""

from __future__ import annotations

import importlib
import sys

TABLES = (
    "tokens",
    "dispatch",
    "http",
    "direct_write",
    "waiter",
    "start",
    "callback",
    "parser",
    "render",
    "daemon",
    "board",
    "fair",
    "handover",
)


def main(names: list[str]) -> None:
    for name in names or TABLES:
        importlib.import_module(f"bench.{name}").main()


main(sys.argv[1:])
