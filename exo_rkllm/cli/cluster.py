"""`exo-rkllm cluster`: who is in the exo cluster of this board, and what the board does there."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from exo_rkllm.cli.ps import table
from exo_rkllm.client.control import daemon


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=["join"], help="go in again, with all models, whatever kept us out"
    )
    parser.add_argument("--watch", action="store_true", help="once a second, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="one JSON object, or one a line with --watch")


def main(args: argparse.Namespace) -> int:
    client = daemon()
    if args.action == "join":
        view = client.post("/control/cluster/join")
    elif not args.watch:
        view = client.get("/control/cluster")
    else:
        for view in client.stream("GET", "/control/cluster?follow=1"):
            show(view, as_json=args.json)
        return 0
    print(json.dumps(view, indent=2) if args.json else "\n".join(report(view)))
    return 0


def show(view: Mapping[str, Any], *, as_json: bool) -> None:
    """One of many: in its predecessor's place on a terminal."""
    if as_json:
        print(json.dumps(view), flush=True)
    else:
        clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
        print(clear + "\n".join(report(view)), flush=True)


def report(view: Mapping[str, Any]) -> Iterator[str]:
    """What stands first is what an operator asks first: is it in, and if not, why."""
    names = {node["id"]: node["name"] or node["id"][:8] for node in view["nodes"]}
    me = view["name"] or view["node_id"][:8] or "This board"
    yield f"{me} is {view['phase']} in the cluster {view['namespace'] or '(none yet)'}."
    if view["sentence"]:
        yield view["sentence"]
    if view["hint"]:
        yield f"  try: {view['hint']}"
    if view["master"]:
        yield f"master: {names.get(view['master'], view['master'][:8])}, for {view['session_age']:.0f} s"
    if view["nodes"]:
        yield ""
        head = ("NODE", "IS", "MODEL", "CHIP", "ADDRESSES")
        yield from table([head, *(_node(node) for node in view["nodes"])])
    if view["instances"]:
        yield ""
        head = ("INSTANCE", "MODEL", "NODE", "STATUS", "TASKS")
        yield from table([head, *(_instance(instance) for instance in view["instances"])])
    yield ""
    counted = view["counters"]
    yield (
        f"tasks in hand {view['tasks']}, behind {view['lag']} events, unconfirmed {view['unechoed']}, "
        f"sent again {counted['resends']}, gaps repaired {counted['gap_repairs']}, "
        f"refused by our schema {counted['refused']}"
    )
    for label, held in (
        ("differs from what we speak", "drift"),
        ("also heard", "other_clusters"),
        ("note", "notes"),
    ):
        yield from (f"{label}: {one}" for one in view[held])


def _node(node: Mapping[str, Any]) -> tuple[str, ...]:
    roles = [word for word, held in (("master", node["master"]), ("this board", node["me"])) if held]
    return (
        node["name"] or node["id"][:8],
        ", ".join(roles) or "-",
        node["model"] or "-",
        node["chip"] or "-",
        " ".join(node["addresses"][:2]) or "-",
    )


def _instance(instance: Mapping[str, Any]) -> tuple[str, ...]:
    ours = " (ours)" if instance["mine"] else ""
    return (
        instance["id"][:8],
        instance["model"],
        f"{instance['node']}{ours}",
        instance["status"],
        str(instance["tasks"]),
    )
