"""Fails where the daemon does a quarter more than bench/results.json says, in two tries of at most three.

Every try prints both figures. A change that is meant to cost more commits new ones: python -m bench results
"""

from __future__ import annotations

import sys
from collections import Counter

from bench.results import FILE, TRIES, committed, machine, measure, python, table, worse


def main() -> None:
    before = committed()
    if not before:
        print(f"{FILE.name} has no figures of Python {python()}: python -m bench results writes them.")
        return
    times: Counter[str] = Counter()
    for number in range(1, TRIES + 1):
        now = measure()
        print(f"try {number}: Python {python()} on {machine()}\n{table(now, before)}", flush=True)
        if not (found := worse(now, before)):
            return
        times.update(found)
        repeated = sorted(what for what, count in times.items() if count > 1)
        if repeated:
            sys.exit(f"Worse than committed, twice: {'; '.join(repeated)}. Explain it, then: python -m bench results")
