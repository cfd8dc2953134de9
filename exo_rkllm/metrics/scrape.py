"""One scrape: the families that collectors fill, the registry that asks them, and the page that Prometheus gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeAlias

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder

from exo_rkllm.metrics.families import EVERY

Buckets: TypeAlias = Sequence[tuple[str, float]]  # upper bound and cumulative count, up to +Inf
FAMILIES: dict[str, Any] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
    "summary": SummaryMetricFamily,
}


class Collector(Protocol):
    """The library's own base class came with 0.15, and Ubuntu 22.04 has 0.9."""

    def describe(self) -> Iterable[Metric]: ...

    def collect(self) -> Iterable[Metric]: ...


class Scrape:
    """The families of one scrape. A family comes into being with its first sample, so one without samples is absent."""

    def __init__(self) -> None:
        self._families: dict[str, Any] = {}

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """One sample of a gauge or counter; None means "not known" and adds nothing."""
        if value is not None:
            self._family(name).add_metric(labels, value)

    def add_histogram(self, name: str, buckets: Buckets, total: float, *labels: str) -> None:
        self._family(name).add_metric(labels, buckets, total)

    def add_summary(self, name: str, count: float, total: float, *labels: str) -> None:
        self._family(name).add_metric(labels, count, total)

    def families(self) -> Iterable[Metric]:
        return self._families.values()

    def _family(self, name: str) -> Any:
        if name not in self._families:
            spec = EVERY[name]
            self._families[name] = FAMILIES[spec.kind](name, spec.help, labels=spec.labels)
        return self._families[name]


def registry(collectors: Iterable[Collector]) -> CollectorRegistry:
    """A registry of these and of this process; never the library's global one, which belongs to the host program."""
    own = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        own.register(collector)
    ProcessCollector(registry=own)
    PlatformCollector(registry=own)
    return own


def render_page(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The page and its content type: OpenMetrics or Prometheus' own text, as the request's Accept header has it."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
