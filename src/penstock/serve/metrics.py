"""What `/metrics` shows, under the names the field uses.

Gauges and counters of the engine are read from its last report when somebody
asks. The server's own are recorded once for each request, when it has ended;
only its first text and the gaps between texts are recorded as they come.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from time import monotonic

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from penstock.serve.entry import Entry
from penstock.serve.shortening import Shortening
from penstock.serve.supervisor import Supervisor

# A time stamp beside every counter, which nobody plots.
disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds. From a small model on a fast machine to a queue in front of a slow one.
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)
_TOKENS = tuple(2.0**power for power in range(18))
# Outcomes of requests that were served to their end.
_FINISHED = ("stop", "length", "tool_calls")


class Metrics:
    """The server's own figures, and the engine's beside them. A `Watcher`."""

    def __init__(self, engine: Supervisor, shortening: Shortening | None = None) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(engine))
        if shortening is not None:
            self._registry.register(_ShorteningCollector(shortening))
        self._gaps = _Gaps()
        self._registry.register(self._gaps)
        self.gap = self._gaps.observe
        self._first_text = self._histogram(
            "time_to_first_token_seconds",
            "From a request's last byte to its first text handed to the network.",
            _LONG,
        )
        self.first_text = self._first_text.observe
        self._time_per_output_token = self._histogram(
            "request_time_per_output_token_seconds",
            "Mean time of a choice's output tokens after its first text.",
            _SHORT,
        )
        self._latency = self._histogram(
            "e2e_request_latency_seconds",
            "From a request's last byte to its last text; finished requests only.",
            _LONG,
        )
        self._queue = self._histogram(
            "request_queue_time_seconds", "In the queue, until its first chunk was planned.", _LONG
        )
        self._prefill = self._histogram(
            "request_prefill_time_seconds", "From the end of the queue to its first token.", _LONG
        )
        self._decode = self._histogram(
            "request_decode_time_seconds", "From a choice's first token to its last.", _LONG
        )
        self._prompt_tokens = self._histogram(
            "request_prompt_tokens", "Prompt tokens of a request.", _TOKENS
        )
        self._generation_tokens = self._histogram(
            "request_generation_tokens", "Output tokens of a request, of all its choices.", _TOKENS
        )
        self._requests = Counter(
            "penstock:requests",
            "Requests by how they ended: a finish reason, cancelled, or the code of the error.",
            ["outcome"],
            registry=self._registry,
        )
        for outcome in ("stop", "length", "cancelled", "queue_full", "engine_dead"):
            self._requests.labels(outcome)  # shown as 0 before the first one

    def ended(self, entry: Entry) -> None:
        """Record a request that has ended, however it did."""
        if entry.outcome is not None:
            self._requests.labels(entry.outcome).inc()
        if entry.outcome not in _FINISHED:
            return
        self._latency.observe(monotonic() - entry.arrived)
        self._prompt_tokens.observe(entry.prompt_tokens or 0)
        self._generation_tokens.observe(entry.output_tokens or 0)
        for choice in entry.choices.values():
            if later := choice.tokens - choice.first_tokens:
                self._time_per_output_token.observe((choice.last - choice.first) / later)
        for timing in entry.timings:
            self._decode.observe(timing.decode_s)
        if entry.timings:
            # The choices of a request share one prompt: queued and prefilled once.
            self._queue.observe(min(timing.queue_s for timing in entry.timings))
            self._prefill.observe(min(timing.prefill_s for timing in entry.timings))

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, help_: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"penstock:{name}", help_, buckets=buckets, registry=self._registry)


class _Gaps(Collector):
    """A histogram for the one figure of each token: a tenth of the library's time."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_SHORT) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_SHORT, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[Metric]:
        bounds = [*map(str, _SHORT), "+Inf"]
        yield HistogramMetricFamily(
            "penstock:inter_token_latency_seconds",
            "From one text of a choice to the next, each of one or more tokens.",
            buckets=list(zip(bounds, accumulate(self._counts), strict=True)),
            sum_value=self._sum,
        )


class _EngineCollector(Collector):
    def __init__(self, engine: Supervisor) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        engine, stats = self._engine, self._engine.stats
        yield _gauge("engine_up", "1 while there is an engine process.", engine.dead is None)
        yield _counter("engine_restarts", "Engine processes after the first.", engine.restarts)
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
            "sequence_steps",
            "Steps that gave a sequence tokens, summed over sequences.",
            stats.sequence_steps,
        )
        yield _counter(
            "prefix_cache_queries", "Prompt tokens looked up in the cache.", stats.prompt_tokens
        )
        yield _counter("prefix_cache_hits", "Prompt tokens found in it.", stats.cached_tokens)
        yield _counter("num_preemptions", "Requests put back for want of pages.", stats.preemptions)
        yield _counter(
            "kv_dropped_tokens",
            "Tokens whose keys and values were given up for a budget.",
            stats.dropped_tokens,
        )
        yield _counter("spec_decode_num_drafts", "Times a request guessed ahead.", stats.drafts)
        yield _counter("spec_decode_num_draft_tokens", "Tokens guessed.", sum(stats.guessed))
        yield _counter(
            "spec_decode_num_accepted_tokens", "Guesses that came true.", sum(stats.guessed_right)
        )
        for name, help_, by_position in (
            ("draft", "Tokens guessed, by position in the guess.", stats.guessed),
            ("accepted", "Guesses that came true, by position.", stats.guessed_right),
        ):
            counter = CounterMetricFamily(
                f"penstock:spec_decode_num_{name}_tokens_per_pos", help_, labels=["position"]
            )
            for position, count in enumerate(by_position):
                counter.add_metric([str(position)], count)
            yield counter
        yield _counter("spec_decode_seconds", "Time that guessing took.", stats.guess_s)


class _ShorteningCollector(Collector):
    def __init__(self, shortening: Shortening) -> None:
        self._shortening = shortening

    def collect(self) -> Iterator[Metric]:
        made = self._shortening
        yield _counter("compressed_requests", "Requests whose prompt was shortened.", made.requests)
        yield _counter("compressed_prompt_tokens", "Their prompt tokens as sent.", made.before)
        yield _counter("compressed_prompt_tokens_kept", "Those that were kept.", made.after)
        yield _counter("compress_seconds", "Time those requests waited for it.", made.seconds)


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(f"penstock:{name}", help_, value=value)


def _counter(name: str, help_: str, value: float) -> Metric:
    return CounterMetricFamily(f"penstock:{name}", help_, value=value)
