"""The daemon's word, for verbs that can do without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exo_rkllm.client import control
from exo_rkllm.doctor.scene import Service
from exo_rkllm.errors import ExoRkllmError


def ask(environment: Mapping[str, str]) -> Service:
    """Its status, the reason why it may not be asked, or nothing where none runs."""
    try:
        found = control.find(environment)
        return Service() if found is None else Service(status(found))
    except ExoRkllmError as error:
        return Service(error=error)


def status(found: control.Client) -> Mapping[str, Any]:
    return found.get("/control/status")
