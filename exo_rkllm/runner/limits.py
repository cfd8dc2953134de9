"""How long a child process may be silent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """Seconds of silence after which a child counts as hung. Prefill is silent, so its limit grows with the prompt."""

    load: float = 300.0
    prefill: float = 60.0
    # The slowest row of the vendor's table is 34 ms a prompt token (RV1126B, Qwen3.5 0.8B); three times that.
    prefill_token: float = 0.1
    token: float = 30.0
    # The longest abort anybody reported took 1.4 s (reference 2.8).
    abort: float = 10.0
    close: float = 3.0
