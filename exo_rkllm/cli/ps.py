"""`exo-rkllm ps`: what is loaded, what it answers, and who waits."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from exo_rkllm.cli.figures import ago, ahead, size
from exo_rkllm.client.control import daemon

HEAD = ("MODEL", "STATE", "MEMORY", "RUNNING", "WAITING", "SINCE", "UNTIL")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help="again whenever something changes, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="one JSON object, or one a line with --watch")


def main(args: argparse.Namespace) -> int:
    client = daemon()
    if not args.watch:
        status = client.get("/control/status")
        print(json.dumps(status, indent=2) if args.json else report(status))
        return 0
    for status in client.stream("GET", "/control/status?follow=1"):
        if args.json:
            print(json.dumps(status), flush=True)
        else:
            clear = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""
            print(clear + report(status), flush=True)
    return 0


def report(status: Mapping[str, Any]) -> str:
    lines: list[str] = []
    if status["unavailable_reason"]:
        lines.append(status["unavailable_reason"])
        lines += [f"  try: {status['hint']}"] if status["hint"] else []
    if status["draining"]:
        lines.append("The daemon is stopping: running answers may end.")
    shown = [model for model in status["models"] if model["state"] != "cold" or model["waiting"] or model["error"]]
    if not shown:
        return "\n".join([*lines, "No model is loaded; the first request loads one, and so does exo-rkllm load MODEL."])
    lines += table([HEAD, *(row(model) for model in shown)])
    for model in shown:
        if model["error"]:
            lines.append(f"{model['name']}: {model['error']}")
            lines += [f"  try: {model['hint']}"] if model["hint"] else []
    return "\n".join(lines)


def row(model: Mapping[str, Any]) -> tuple[str, ...]:
    loaded = model["state"] in ("ready", "closing")
    if model["retry_at"] is not None:
        until = f"again in {ahead(model['retry_at'])}"
    elif model["pinned"]:
        until = "pinned"
    elif model["unload_at"] is not None:
        until = f"idle, {ahead(model['unload_at'])}"
    else:
        until = "" if model["running"] or not loaded else "unloaded by hand"
    tokens = sum(run["tokens"] for run in model["running"])
    running = f"{len(model['running'])} ({tokens} tokens)" if model["running"] else "-"
    memory = size(model["memory"]) if loaded and model["memory"] else "-"
    waiting = str(len(model["waiting"])) if model["waiting"] else "-"
    return (model["name"], model["state"], memory, running, waiting, ago(model["since"]), until)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in rows]
