"""One scrape as bytes, in the format that the scraper asked for: OpenMetrics, or Prometheus' own text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder


class Collects(Protocol):
    """The library's own base class came with 0.15, and Ubuntu 22.04 has 0.9."""

    def describe(self) -> Iterable[Any]: ...

    def collect(self) -> Iterable[Any]: ...


def registry(collectors: Iterable[Collects]) -> CollectorRegistry:
    """Our own, never the library's global one: a host that loads this package has names of its own in that."""
    own = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        own.register(collector)
    ProcessCollector(registry=own)
    PlatformCollector(registry=own)
    return own


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The page and its content type; `accept` is the request's header, empty where it had none."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
