"""`python -m bench [NAME ...]`: every table of a minute or two, or the named ones.

`results` writes the figures that are kept in bench/results.json, and `check` compares with them. Made by name alone are
peers, which wants another server (`peers --with URL`), and the tables of the cluster, which take many minutes and need
root: cluster, cluster_fleet, cluster_log. docs/performance.md says what they measure, and how.
"""

from __future__ import annotations

import importlib
import sys
from itertools import takewhile

TABLES = (
    "tokens",
    "dispatch",
    "http",
    "direct_write",
    "shortcut",
    "start",
    "callback",
    "parser",
    "render",
    "load",
    "daemon",
    "board",
    "fair",
    "handover",
    "work",
    "pictures",
)


def main(arguments: list[str]) -> None:
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__, "Tables:", ", ".join(TABLES))
        return
    names = list(takewhile(lambda word: not word.startswith("-"), arguments))
    for name in names or TABLES:
        importlib.import_module(f"bench.{name}").main()


main(sys.argv[1:])
