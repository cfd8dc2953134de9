"""What the engine counts for a host that serves /metrics: optional, and never twice under one name."""

from __future__ import annotations

from typing import Any

NAMES = {
    "exo_rkllm_classic_requests": ("Requests of classic exo by how they ended.", ("reason",)),
    "exo_rkllm_classic_tokens": ("Tokens given to classic exo.", ()),
}


class ClassicCounters:
    """Silent without prometheus_client. An engine that is made again finds the counters of the first."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}
        try:
            from prometheus_client import REGISTRY, Counter
        except ImportError:
            return
        held: dict[str, Any] = getattr(REGISTRY, "_names_to_collectors", {})
        for name, (says, labels) in NAMES.items():
            self._found[name] = held.get(f"{name}_total") or Counter(name, says, labels)

    def ended(self, reason: str) -> None:
        if self._found:
            self._found["exo_rkllm_classic_requests"].labels(reason).inc()

    def token(self) -> None:
        if self._found:
            self._found["exo_rkllm_classic_tokens"].inc()
