"""`exo-rkllm cluster`: show the exo cluster and this board's part in it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any

from exo_rkllm.cli import place
from exo_rkllm.cli.output import table
from exo_rkllm.cli.ps import show_status
from exo_rkllm.client.control import find
from exo_rkllm.cluster.identity import FOLDER, LEFT, NodeIdentity
from exo_rkllm.errors import ConfigError
from exo_rkllm.privileges import give_up_root


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        choices=["join", "leave"],
        help="join: confirm the cluster, or rejoin it with all models, whatever kept the board out.  leave: take the "
        "board out until join, restarts included",
    )
    parser.add_argument("--watch", action="store_true", help="update once a second, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print one JSON object, or one per line with --watch")


def main(args: argparse.Namespace) -> int:
    client = find() if args.action else None
    if args.action is None:
        show_status(args, "/control/cluster", text)
    elif client is not None:
        view = client.post(f"/control/cluster/{args.action}")
        print(json.dumps(view, indent=2) if args.json else text(view))
    else:
        prepare(args.action)
    return 0


def prepare(action: str) -> None:
    """For the daemon's next start, as none runs now."""
    folder = place.state() / FOLDER
    give_up_root(folder)
    try:
        NodeIdentity(folder).keep_out(LEFT if action == "leave" else "")
    except OSError as error:
        raise ConfigError(
            f"{error.filename} cannot be written: {error.strerror}.", f"sudo exo-rkllm cluster {action}"
        ) from None
    says = "will join no exo cluster" if action == "leave" else "may join an exo cluster again"
    print(f"The daemon is not running. From its next start on, the board {says} ({folder}).")


def text(view: Mapping[str, Any]) -> str:
    return "\n".join(report(view))


def report(view: Mapping[str, Any]) -> Iterator[str]:
    """Starts with whether the board is in the cluster and, if not, why."""
    names = {node["id"]: node["name"] or node["id"][:8] for node in view["nodes"]}
    me = view["name"] or view["node_id"][:8] or "This board"
    if view["phase"] == "off":
        yield view["sentence"]
        yield f"  try: {view['hint']}"
        return
    yield f"{me} is {view['phase']} in the cluster {view['namespace'] or '(none yet)'}."
    if view["sentence"]:
        yield view["sentence"]
    if view["hint"]:
        yield f"  try: {view['hint']}"
    if view["announcement"]:
        yield view["announcement"]["sentence"]
        yield f"  try: {view['announcement']['hint']}"
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
    withheld = [offer for offer in view.get("offers", ()) if not offer["offered"]]
    if withheld:
        yield ""
        yield from table([("NOT OFFERED", "REASON"), *((offer["model"], offer["reason"]) for offer in withheld)])
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
