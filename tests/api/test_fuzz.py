"""A taste of `make fuzz` in every run: nothing generated from our own document brings a 5xx or a hang."""

from __future__ import annotations

from tests.api.fuzzed import run, served


def test_generated_requests_bring_no_server_error() -> None:
    with served() as server:
        seen = run(server.url, cases=500, seconds=30)
        assert {entry.id for entry in server.catalogue.list()} == {"qwen", "thinker", "slow", "seer", "dummy"}
    assert seen["cases"] >= 300
    assert seen["2xx"] >= 50 and seen["4xx"] >= 50
    assert seen["5xx"] == 0
