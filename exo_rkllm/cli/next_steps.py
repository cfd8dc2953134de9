"""A bare `exo-rkllm`: what there is to do next on this machine, in a few lines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from exo_rkllm.cli import place
from exo_rkllm.client.control import DaemonStatus, NotInTheGroup, daemon_status
from exo_rkllm.errors import ExoRkllmError


def main() -> int:
    status = daemon_status(os.environ)
    print(*lines(status, _installed()), "", "All verbs: exo-rkllm help", sep="\n")
    return 0


def _installed() -> Sequence[str]:
    """Ids of the models; none where the folder cannot be read, which `models` explains."""
    try:
        return [entry.id for entry in place.node(plugged=False).catalogue.list()]
    except ExoRkllmError:
        return []


def lines(daemon: DaemonStatus, models: Sequence[str]) -> Iterator[str]:
    """One line for the state, and a command with each step that is still to be done."""
    if daemon.error is not None:
        yield daemon.error.sentence
        yield f"  {daemon.error.hint}"
        if not isinstance(daemon.error, NotInTheGroup):
            return
    elif daemon.status is None:
        yield "The daemon is not running. To start it:"
        yield "  sudo systemctl start exo-rkllm     (or in a terminal of its own: exo-rkllm serve)"
    else:
        yield from _state(daemon.status)
    if not models:
        yield "No model is installed. To download one that fits this board:"
        yield "  exo-rkllm pull ORG/REPO"
        return
    loaded = _loaded(daemon.status or {})
    model = next((name for name in loaded if name in models), models[0])
    yield f"{len(models)} model{'s are' if len(models) > 1 else ' is'} installed. To chat with one:"
    yield f"  exo-rkllm run {model}"


def _state(status: Mapping[str, Any]) -> Iterator[str]:
    if status.get("unavailable_reason"):
        yield str(status["unavailable_reason"])
        yield f"  {status.get('hint') or 'exo-rkllm doctor'}"
        return
    loaded = _loaded(status)
    yield f"The daemon is running; {', '.join(loaded) if loaded else 'no model'} is loaded. To watch it: exo-rkllm top"


def _loaded(status: Mapping[str, Any]) -> list[str]:
    return [str(model["name"]) for model in status.get("models", ()) if model.get("state") == "ready"]
