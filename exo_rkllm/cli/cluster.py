"""`exo-rkllm cluster`: show the exo cluster and this board's part in it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from exo_rkllm.cli.output import table
from exo_rkllm.cli.ps import show_status
from exo_rkllm.client.control import daemon


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=["join"], help="rejoin with all models, whatever kept the board out"
    )
    parser.add_argument("--watch", action="store_true", help="update once a second, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print one JSON object, or one per line with --watch")


def main(args: argparse.Namespace) -> int:
    if args.action == "join":
        view = daemon().post("/control/cluster/join")
        print(json.dumps(view, indent=2) if args.json else text(view))
    else:
        show_status(args, "/control/cluster", text)
    return 0


def text(view: Mapping[str, Any]) -> str:
    return "\n".join(report(view))


def report(view: Mapping[str, Any]) -> Iterator[str]:
    """Starts with whether the board is in the cluster and, if not, why."""
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
        head = ("NODE", "ROLE", "MODEL", "CHIP", "ADDRESSES")
        yield from table([head, *(_node(node) for node in view["nodes"])])
    if view["instances"]:
        yield ""
        head = ("INSTANCE", "MODEL", "NODE", "STATUS", "TASKS")
        yield from table([head, *(_instance(instance) for instance in view["instances"])])
    yield ""
    counters = view["counters"]
    yield (
        f"tasks in progress {view['tasks']}, events behind {view['lag']}, unconfirmed {view['unechoed']}, "
        f"resent {counters['resends']}, gaps repaired {counters['gap_repairs']}, "
        f"rejected by our schema {counters['refused']}"
    )
    for label, key in (("protocol difference", "drift"), ("other cluster", "other_clusters"), ("note", "notes")):
        yield from (f"{label}: {line}" for line in view[key])


def _node(node: Mapping[str, Any]) -> tuple[str, ...]:
    roles = [role for role, applies in (("master", node["master"]), ("this board", node["me"])) if applies]
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
