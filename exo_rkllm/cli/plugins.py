"""`exo-rkllm plugins`: list the plugins, and explain why one is not used."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from exo_rkllm.cli import place
from exo_rkllm.cli.output import table
from exo_rkllm.client.control import daemon_status
from exo_rkllm.plugins.loading import PluginStatus
from exo_rkllm.plugins.offers import GROUPS, offers

HEAD = ("GROUP", "NAME", "VALUE", "PACKAGE", "STATE")
NEW = "It was installed after the daemon started: sudo systemctl restart exo-rkllm"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--here", action="store_true", help="load them in this process; do not ask the daemon")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.epilog = (
        "Shows the running daemon's plugins, or without a daemon those of this command. EXO_RKLLM_PLUGINS, or allow "
        "under [plugins], selects them by name. Exit code: 1 if one failed or conflicts."
    )


def main(args: argparse.Namespace) -> int:
    service = daemon_status(os.environ)
    if args.here or service.status is None:
        rows: Sequence[PluginStatus] = place.load_quietly().rows
    else:
        rows = daemon_plugins(service.status.get("plugins", []))
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print(*report(rows), sep="\n")
    return 1 if any(row.state in ("failed", "conflict") for row in rows) else 0


def daemon_plugins(statuses: Sequence[dict[str, Any]]) -> list[PluginStatus]:
    """The daemon's plugins, followed by those installed since it started."""
    rows = [PluginStatus(**status) for status in statuses]
    keys = {(row.group, row.name, row.value) for row in rows}
    fresh = [offer for offer in offers() if (offer.group, offer.name, offer.value) not in keys]
    return rows + [PluginStatus(**asdict(offer), state="waiting", error=NEW) for offer in fresh]


def report(rows: Sequence[PluginStatus]) -> Iterator[str]:
    if not rows:
        yield f"No package has an entry point in {', '.join(GROUPS)}."
        return
    with_versions = [replace(row, package=f"{row.package} {row.version}".strip()) for row in rows]
    yield from table([HEAD, *((row.group, row.name, row.value, row.package, row.state) for row in with_versions)])
    for row in rows:
        if row.error and row.state != "refused":
            yield f"{row.name}: {row.error}"
