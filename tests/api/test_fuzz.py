"""A taste of `make fuzz` in every run: nothing generated from our own document brings a 5xx or a hang."""

from __future__ import annotations

from tests.api.fuzzed import run, served
from tests.api.world import CARDS


def test_generated_requests_bring_no_server_error() -> None:
    with served() as server:
        seen = run(server.url, cases=300)
        assert {entry.id for entry in server.catalogue.list()} == set(CARDS)
    assert seen["cases"] >= 200
    assert seen["2xx"] >= 30 and seen["4xx"] >= 30
    assert seen["5xx"] == 0
