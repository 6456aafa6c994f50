"""What `/metrics` shows, under the names the field uses.

Gauges and counters of the engine are read from its last report when somebody
asks; only the histograms and the outcomes are kept here.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock.serve.client import EngineClient

# A time stamp beside every counter, which nobody plots.
disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds. From a small model on a fast machine to a queue in front of a slow one.
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)


class Metrics:
    """The server's own figures, and the engine's beside them."""

    def __init__(self, engine: EngineClient) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(engine))
        self.time_to_first_token = Histogram(
            "penstock:time_to_first_token_seconds",
            "From the tokenized request to its first text handed to the network.",
            buckets=_LONG,
            registry=self._registry,
        )
        self.time_per_output_token = Histogram(
            "penstock:request_time_per_output_token_seconds",
            "Mean time of a request's output tokens after its first text.",
            buckets=_SHORT,
            registry=self._registry,
        )
        self.request_latency = Histogram(
            "penstock:e2e_request_latency_seconds",
            "From the tokenized request to its last text; finished requests only.",
            buckets=_LONG,
            registry=self._registry,
        )
        self.requests = Counter(
            "penstock:requests",
            "Requests by how they ended: a finish reason, cancelled, or the code of the error.",
            ["outcome"],
            registry=self._registry,
        )
        for outcome in ("stop", "length", "cancelled", "queue_full"):
            self.requests.labels(outcome)  # shown as 0 before the first one

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        engine, stats = self._engine, self._engine.stats
        yield _gauge("engine_up", "1 while the engine process lives.", engine.dead is None)
        yield _gauge("num_requests_open", "Requests between arrival and last token.", engine.open)
        yield _gauge("num_requests_running", "Requests in the running batch.", stats.running)
        yield _gauge("num_requests_waiting", "Requests in the queue.", stats.waiting)
        yield _gauge(
            "kv_cache_usage_perc",
            "Share of KV pages held by requests, 0 to 1.",
            stats.pages_held / max(stats.pages_total, 1),
        )
        pages = GaugeMetricFamily(
            "penstock:kv_pages",
            "KV pages by state; free + held + cached = total.",
            labels=["state"],
        )
        pages.add_metric(["total"], stats.pages_total)
        pages.add_metric(["free"], stats.pages_free)
        pages.add_metric(["held"], stats.pages_held)
        pages.add_metric(["cached"], stats.pages_cached)
        yield pages
        yield _counter("engine_steps", "Completed steps of the model.", stats.steps)
        yield _counter(
            "prompt_tokens", "Prompt tokens computed or found in the cache.", stats.prompt_tokens
        )
        yield _counter("generation_tokens", "Output tokens.", stats.output_tokens)
        yield _counter(
            "prefix_cache_queries", "Prompt tokens looked up in the cache.", stats.prompt_tokens
        )
        yield _counter("prefix_cache_hits", "Prompt tokens found in it.", stats.cached_tokens)
        yield _counter("num_preemptions", "Requests put back for want of pages.", stats.preemptions)


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(f"penstock:{name}", help_, value=value)


def _counter(name: str, help_: str, value: float) -> Metric:
    return CounterMetricFamily(f"penstock:{name}", help_, value=value)
