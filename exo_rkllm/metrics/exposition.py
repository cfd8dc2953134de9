"""One scrape as bytes, in the format that the scraper asked for: OpenMetrics, or Prometheus' own text.

Which of them is the library's to say. Writing is done here, since the library goes through every label character by
character: a busy daemon's page took it 4 ms on a PC, and a board's cores are slower.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
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


def render_page(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The page and its content type; `accept` is the request's header, empty where it had none."""
    _, content_type = choose_encoder(accept)
    openmetrics = content_type.startswith("application/openmetrics-text")
    return encode(registry.collect(), openmetrics=openmetrics), content_type


def encode(families: Iterable[Any], *, openmetrics: bool) -> bytes:
    lines = [line for family in families for line in _lines(family, openmetrics=openmetrics)]
    if openmetrics:
        lines.append("# EOF")
    return "\n".join([*lines, ""]).encode()


def _lines(family: Any, *, openmetrics: bool) -> Iterator[str]:
    """OpenMetrics names a counter's family without the suffix that its samples have."""
    name, kind = family.name, family.type
    if not openmetrics:
        name += "_total" if kind == "counter" else ""
        kind = "untyped" if kind == "unknown" else kind
    said = family.documentation.replace("\\", "\\\\").replace("\n", "\\n")
    yield f"# HELP {name} {_quoted(family.documentation) if openmetrics else said}"
    yield f"# TYPE {name} {kind}"
    for sample in family.samples:
        yield f"{sample.name}{_labels(sample.labels)} {_number(sample.value)}"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join([f'{name}="{_quoted(value)}"' for name, value in sorted(labels.items())]) + "}"


def _quoted(value: str) -> str:
    if value.isalnum():
        return value
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
