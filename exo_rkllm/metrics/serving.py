"""Serving metrics: counters and histograms that dispatch feeds, and its status as it is at the scrape."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from exo_rkllm import __version__
from exo_rkllm.backends.observer import GAP_BOUNDS, RESTART_REASONS, AnswerReport, LoadReport, RestartReport
from exo_rkllm.dispatch.status import DispatchStatus

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# From the vendor's table: 0.1 s to 5 s to the first token at 128 prompt tokens, minutes for a long document.
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
BOUNDS = {
    "rkllm_time_to_first_token_seconds": SECONDS,
    "rkllm_inter_token_seconds": GAP_BOUNDS,
    "rkllm_queue_seconds": (0.01, *SECONDS),
    "rkllm_prefill_seconds": SECONDS,
    "rkllm_decode_seconds": SECONDS,
    "rkllm_request_seconds": SECONDS,
    "rkllm_model_load_seconds": SECONDS,
}
TOKENS = ("rkllm_prompt_tokens_total", "rkllm_cached_prompt_tokens_total", "rkllm_generated_tokens_total")
# What is kept of conversations, by the fields of `PrefixTally`.
PREFIXES = {
    "rkllm_conversations_kept": "files",
    "rkllm_conversations_kept_bytes": "bytes",
    "rkllm_conversations_saved_total": "saved",
    "rkllm_conversations_restored_total": "restored",
    "rkllm_conversations_evicted_total": "evicted",
    "rkllm_restored_prompt_tokens_total": "hit_tokens",
}
# Names come from the catalogue and from error classes, both short; values beyond this number share one series.
MOST_VALUES = 64
OTHER = "other"


class Histogram:
    """Observations sorted by upper bound, which a scrape turns into Prometheus' cumulative buckets."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def merge(self, counts: Iterable[int], total: float) -> None:
        """Add observations that were sorted into the same bounds elsewhere."""
        self.counts = [own + other for own, other in zip(self.counts, counts, strict=True)]
        self.total += total

    def buckets(self) -> list[tuple[str, float]]:
        edges = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return list(zip(edges, map(float, accumulate(self.counts)), strict=True))


class Bounded:
    """Label values up to a number; later ones become `other`."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value not in self._seen:
            if len(self._seen) >= MOST_VALUES:
                return OTHER
            self._seen.add(value)
        return value


class ServingMetrics:
    """The daemon's Observer, which counts."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, tuple[str, ...]], float] = {}
        self.histograms: dict[tuple[str, str], Histogram] = {}
        self._model = Bounded()
        self._reason = Bounded()

    def answered(self, event: AnswerReport) -> None:
        model = self._model(event.model)
        self._count("rkllm_requests_total", 1, model, self._reason(event.reason))
        usage = event.usage
        prompt = usage.prompt if usage.counted else 0
        for name, tokens in zip(TOKENS, (prompt, usage.cached, usage.completion), strict=True):
            if tokens:  # the series are there since the model's load
                self._count(name, tokens, model)
        if usage.images:
            self._count("rkllm_images_total", usage.images, model)
            self._count("rkllm_images_encoded_total", usage.encoded, model)
            self._count("rkllm_image_encode_seconds_total", event.timings.encode, model)
        self._observe("rkllm_request_seconds", event.seconds, model)
        self._observe("rkllm_queue_seconds", event.timings.queued, model)
        if event.first_token is not None:
            self._observe("rkllm_time_to_first_token_seconds", event.first_token, model)
            if event.gaps is not None:
                self._histogram("rkllm_inter_token_seconds", model).merge(event.gaps.counts, event.gaps.total)
        # Zero means that the engine does not know (Timings).
        if event.timings.prefill > 0:
            self._observe("rkllm_prefill_seconds", event.timings.prefill, model)
        if event.timings.decode > 0:
            self._observe("rkllm_decode_seconds", event.timings.decode, model)

    def generated(self) -> float:
        """Tokens of all answers so far."""
        return sum(value for (name, _), value in self.counters.items() if name == "rkllm_generated_tokens_total")

    def loaded(self, event: LoadReport) -> None:
        model = self._model(event.model)
        self._count("rkllm_model_loads_total", 1, model, self._reason(event.error or "ok"))
        if event.error:
            return
        self._observe("rkllm_model_load_seconds", event.seconds, model)
        # A series that first appears with its first event has no rate for that event.
        for name in TOKENS:
            self._count(name, 0, model)
        self._count("rkllm_requests_total", 0, model, self._reason("stop"))
        for reason in RESTART_REASONS:
            self._count("rkllm_worker_restarts_total", 0, model, self._reason(reason))
        for name in BOUNDS:
            self._histogram(name, model)

    def restarted(self, event: RestartReport) -> None:
        self._count("rkllm_worker_restarts_total", 1, self._model(event.model), self._reason(event.reason))

    def _count(self, name: str, value: float, *labels: str) -> None:
        self.counters[name, labels] = self.counters.get((name, labels), 0.0) + max(value, 0)

    def _observe(self, name: str, value: float, model: str) -> None:
        self._histogram(name, model).observe(value)

    def _histogram(self, name: str, model: str) -> Histogram:
        if (name, model) not in self.histograms:
            self.histograms[name, model] = Histogram(BOUNDS[name])
        return self.histograms[name, model]


class ServingCollector:
    """`runtime` gives version and generation of the default vendor library, or None without one."""

    def __init__(
        self,
        serving: ServingMetrics,
        status: Callable[[], DispatchStatus],
        runtime: Callable[[], tuple[str, str] | None],
    ) -> None:
        self._serving = serving
        self._status = status
        self._runtime = runtime

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        from exo_rkllm.metrics.scrape import Scrape  # prometheus_client is for whoever scrapes

        scrape, status = Scrape(), self._status()
        scrape.add("rkllm_daemon_info", 1, __version__)
        if (runtime := self._runtime()) is not None:
            scrape.add("rkllm_runtime_info", 1, *runtime)
        scrape.add("rkllm_serving", 0 if status.unavailable_reason else 1)
        for model in status.models[:MOST_VALUES]:
            scrape.add("rkllm_model_loaded", 1 if model.state == "ready" else 0, model.name)
            scrape.add("rkllm_model_memory_bytes", model.memory if model.state == "ready" else None, model.name)
            if model.state == "ready" and model.runtime:
                scrape.add("rkllm_model_runtime_info", 1, model.name, model.runtime)
            scrape.add("rkllm_requests_running", len(model.running), model.name)
            scrape.add("rkllm_requests_waiting", len(model.waiting), model.name)
            for name, kept in PREFIXES.items():
                scrape.add(name, getattr(model.prefixes, kept), model.name)
        for (name, labels), value in self._serving.counters.items():
            scrape.add(name, value, *labels)
        for (name, label), histogram in self._serving.histograms.items():
            scrape.add_histogram(name, histogram.buckets(), histogram.total, label)
        return scrape.families()
