"""`exo-rkllm ps`: show loaded models, running answers and the queue."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from exo_rkllm.cli.output import CLEAR, size, table, time_since, time_until
from exo_rkllm.client.control import daemon

HEAD = ("MODEL", "STATE", "RUNTIME", "MEMORY", "RUNNING", "WAITING", "SINCE", "UNTIL")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help="update whenever something changes, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print one JSON object, or one per line with --watch")


def main(args: argparse.Namespace) -> int:
    show_status(args, "/control/status", report)
    return 0


def show_status(args: argparse.Namespace, path: str, report: Callable[[Mapping[str, Any]], str]) -> None:
    """Print a status of the daemon once, or with --watch each time it changes, in place on a terminal."""
    if not args.watch:
        status = daemon().get(path)
        print(json.dumps(status, indent=2) if args.json else report(status))
        return
    clear = CLEAR if sys.stdout.isatty() else ""
    for status in daemon().stream("GET", f"{path}?follow=1"):
        print(json.dumps(status) if args.json else clear + report(status), flush=True)


def report(status: Mapping[str, Any]) -> str:
    lines: list[str] = []
    if status["unavailable_reason"]:
        lines.append(status["unavailable_reason"])
        lines += [f"  try: {status['hint']}"] if status["hint"] else []
    if status["draining"]:
        lines.append("The daemon is stopping and lets running answers finish.")
    rows = [model for model in status["models"] if model["state"] != "cold" or model["waiting"] or model["error"]]
    if not rows:
        return "\n".join([*lines, "No model is loaded. The first request loads one; so does: exo-rkllm load MODEL"])
    lines += table([HEAD, *(row(model) for model in rows)])
    if len(status.get("runtimes", ())) > 1:
        chosen = [model for model in rows if model.get("runtime")]
        lines += [f"{model['name']}: runtime {model['runtime']}, {model['runtime_reason']}" for model in chosen]
    for model in rows:
        for words in (pictures(model.get("pictures", {})), conversations(model.get("prefixes", {}))):
            lines += [f"{model['name']}: {words}"] if words else []
        if model["error"]:
            lines.append(f"{model['name']}: {model['error']}")
            lines += [f"  try: {model['hint']}"] if model["hint"] else []
    return "\n".join(lines)


def pictures(tally: Mapping[str, Any]) -> str:
    """What became of the images in a model's requests; empty where none came."""
    shown, refused = tally.get("shown", 0), tally.get("refused", 0)
    parts = []
    if shown:
        plural = "" if shown == 1 else "s"
        parts.append(f"{shown} image{plural}, {tally['encoded']} encoded in {tally['seconds']:.1f} s")
    if refused:
        parts.append(f"{refused} refused")
    return ", ".join(parts)


def conversations(tally: Mapping[str, Any]) -> str:
    """What is kept of conversations that others displaced; empty where none was."""
    files, restored = tally.get("files", 0), tally.get("restored", 0)
    if not files and not restored:
        return ""
    kept = f"{files} conversation{'' if files == 1 else 's'} kept ({size(tally['bytes'])})"
    if not restored:
        return kept
    return f"{kept}, restored {restored} time{'' if restored == 1 else 's'} for {tally['hit_tokens']} tokens"


def row(model: Mapping[str, Any]) -> tuple[str, ...]:
    loaded = model["state"] in ("ready", "closing")
    if model["retry_at"] is not None:
        until = f"retry in {time_until(model['retry_at'])}"
    elif model["pinned"]:
        until = "pinned"
    elif model["unload_at"] is not None:
        until = f"idle, {time_until(model['unload_at'])}"
    else:
        until = "" if model["running"] or not loaded else "until unloaded"
    tokens = sum(run["tokens"] for run in model["running"])
    running = f"{len(model['running'])} ({tokens} tokens)" if model["running"] else "-"
    memory = size(model["memory"]) if loaded and model["memory"] else "-"
    waiting = str(len(model["waiting"])) if model["waiting"] else "-"
    return (
        model["name"],
        model["state"],
        model.get("runtime") or "-",
        memory,
        running,
        waiting,
        time_since(model["since"]),
        until,
    )
