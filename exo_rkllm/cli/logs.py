"""`exo-rkllm logs`: show the daemon's recent log lines to users who may not read the journal."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

from exo_rkllm.client.control import daemon


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--lines", type=int, default=100, metavar="N", help="number of lines to show (default: 100)"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="keep showing new lines until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line, with all fields")


def main(args: argparse.Namespace) -> int:
    client = daemon()
    path = f"/control/logs?lines={max(0, args.lines)}"
    lines = client.stream("GET", f"{path}&follow=1") if args.follow else client.get(path)["lines"]
    for line in lines:
        print(json.dumps(line) if args.json else plain(line), flush=args.follow)
    return 0


def plain(line: Mapping[str, Any]) -> str:
    """The line as the daemon prints it on a terminal, plus the date."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line["time"]))
    level = "" if line["level"] == "info" else f"{line['level']}: "
    request = line["fields"].get("request", "")
    return f"{moment} {level}{line['text']}" + (f"  [{request}]" if request else "")
