"""Generated requests against our own OpenAPI document: `python -m tests.api.fuzzed CASES`.

Somewhat fewer than CASES are made, since endpoints without a body run out of different ones.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from exo_rkllm.api.context import ApiKey, ApiServerSettings
from tests.api.world import World, world

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LONGEST = 10.0
# Streams without an end of their own.
ENDLESS = "/v1/events"


@contextmanager
def served() -> Iterator[World]:
    """The world on a loop of its own, for clients that block."""
    ready: list[World] = []
    begun, done = threading.Event(), threading.Event()

    async def live() -> None:
        settings = ApiServerSettings(keys=(ApiKey("fuzz", "fuzz", control=True),))
        async with world(settings=settings) as running:
            ready.append(running)
            begun.set()
            await asyncio.get_running_loop().run_in_executor(None, done.wait)

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    try:
        assert begun.wait(20)
        yield ready[0]
    finally:
        done.set()
        thread.join(20)


def run(url: str, cases: int) -> Counter[str]:
    """So many cases over all endpoints, valid ones and broken ones; the statuses that came back."""
    schema: Any = schemathesis.openapi.from_url(f"{url}/openapi.json")
    schema.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
    operations = [found.ok() for found in schema.get_all_operations() if found.ok().path != ENDLESS]
    # Most of the cases go where there is a body to vary.
    weights = [8 if operation.body else 1 for operation in operations]
    share = max(1, math.ceil(cases / sum(weights)))
    seen: Counter[str] = Counter()
    for operation, weight in zip(operations, weights, strict=True):
        _try(operation, share * weight, seen)
    return seen


def _try(operation: Any, cases: int, seen: Counter[str]) -> None:
    names = ("qwen", "thinker", "dummy")

    @hypothesis.settings(
        max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    @hypothesis.given(case=operation.as_strategy())
    def one(case: Any) -> None:
        # Random names reach nothing behind the catalogue, so most cases get one that exists.
        named = case.body.get("model") if isinstance(case.body, dict) and case.path != "/api/delete" else None
        if isinstance(named, str) and len(named) % 4:
            case.body["model"] = names[len(named) % 3]
        began = time.monotonic()
        response = case.call(headers={"Authorization": "Bearer fuzz"}, timeout=LONGEST)
        assert time.monotonic() - began < LONGEST
        seen[f"{response.status_code // 100}xx"] += 1
        seen["cases"] += 1
        case.validate_response(response, checks=CHECKS)

    one()


if __name__ == "__main__":
    with served() as server:
        began = time.monotonic()
        print(dict(run(server.url, int(sys.argv[1]))), f"{time.monotonic() - began:.0f} s")  # noqa: T201 - its purpose
        print("entries left:", sorted(entry.id for entry in server.catalogue.list()))  # noqa: T201 - its purpose
