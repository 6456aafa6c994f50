"""A server's metrics page becomes series under our names, and reading it costs next to nothing."""

import asyncio
from time import process_time

import pytest

from penstock.meter.scrape import read_page, scraping
from tests.meter.raw import page

VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a}b"} 3.0
vllm:num_requests_running{engine="1",model_name="a}b"} 4.0
vllm:num_requests_waiting{engine="0",model_name="a b"} 1e1
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 200.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 50.0
vllm:prefix_cache_hits_created{engine="0",model_name="m"} 1.7e+09
vllm:num_preemptions_total{engine="0",model_name="m"} NaN
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 9.0
vllm:spec_decode_num_drafts_total{engine="1",model_name="m"} 1.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 6.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="1",model_name="m",position="0"} 1.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="1"} 4.0
vllm:num_requests_running_not_this{engine="0"} 9
"""
SGLANG = b"""\
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="0"} 5.0
sglang:num_running_reqs{engine_type="unified",model_name="m",pp_rank="0",tp_rank="1"} 5.0
sglang:num_queue_reqs{model_name="m",tp_rank="0"} 2.0
sglang:token_usage{model_name="m",tp_rank="0"} 0.28
sglang:cache_hit_rate{model_name="m",tp_rank="0"} 0.01
sglang:num_retracted_requests_total{model_name="m"} 7.0
sglang:spec_accept_length{dp_rank="0",model_name="m"} 2.0
sglang:spec_accept_length{dp_rank="1",model_name="m"} 3.0
"""
LLAMACPP = b"""\
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 3
llamacpp:requests_deferred 1
llamacpp:tokens_predicted_total 48
llamacpp:spec_decode_num_draft_tokens_total 10
llamacpp:spec_decode_num_accepted_tokens_total 6
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="0"} 4
"""
TGI = b"""\
tgi_batch_current_size 12
tgi_queue_size 3
tgi_request_generated_tokens_sum 480
tgi_request_generated_tokens_bucket{le="1"} 0
"""


def placed(values):
    """With the position of each, which most names have none of."""
    return {key if isinstance(key, tuple) else (key, None): v for key, v in values.items()}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (
            VLLM,
            {
                b"vllm:num_requests_running": 7,
                b"vllm:num_requests_waiting": 10,
                b"vllm:kv_cache_usage_perc": 0.5,
                b"vllm:prefix_cache_queries_total": 200,
                b"vllm:prefix_cache_hits_total": 50,
                b"vllm:spec_decode_num_drafts_total": 10,
                (b"vllm:spec_decode_num_accepted_tokens_per_pos_total", 0): 7,
                (b"vllm:spec_decode_num_accepted_tokens_per_pos_total", 1): 4,
            },
        ),
        (
            SGLANG,
            {
                b"sglang:num_running_reqs": 5,
                b"sglang:num_queue_reqs": 2,
                b"sglang:token_usage": 0.28,
                b"sglang:cache_hit_rate": 0.01,
                b"sglang:num_retracted_requests_total": 7,
                b"sglang:spec_accept_length": 2.5,
            },
        ),
        (
            LLAMACPP,
            {
                b"llamacpp:requests_processing": 3,
                b"llamacpp:requests_deferred": 1,
                b"llamacpp:tokens_predicted_total": 48,
                b"llamacpp:spec_decode_num_draft_tokens_total": 10,
                b"llamacpp:spec_decode_num_accepted_tokens_total": 6,
                (b"llamacpp:spec_decode_num_accepted_tokens_per_pos_total", 0): 4,
            },
        ),
        (
            TGI,
            {
                b"tgi_batch_current_size": 12,
                b"tgi_queue_size": 3,
                b"tgi_request_generated_tokens_sum": 480,
            },
        ),
        (b"<html>vllm:num_requests_running 5</html>", {}),
        (b"vllm:num_requests_running five\n\xff\xfe", {}),
        (b"", {}),
    ],
)
def test_pages_of_each_dialect(text, values):
    assert read_page(text) == placed(values)


def test_our_own_page_is_read():
    prometheus = pytest.importorskip("prometheus_client")
    registry = prometheus.CollectorRegistry()
    prometheus.Gauge("penstock:num_requests_waiting", "x", registry=registry).set(4)
    prometheus.Counter("penstock:prefix_cache_hits", "x", registry=registry).inc(9)
    text = prometheus.generate_latest(registry)
    values = {b"penstock:num_requests_waiting": 4, b"penstock:prefix_cache_hits_total": 9}
    assert read_page(text) == placed(values)


def test_a_large_page_takes_milliseconds():
    noise = b"".join(
        b'vllm:e2e_request_latency_seconds_bucket{engine="%d",le="%d"} 1.0\n' % (i % 8, i)
        for i in range(5000)
    )
    began = process_time()
    for _ in range(10):
        assert len(read_page(noise + VLLM)) == 8
    assert (process_time() - began) / 10 < 0.02


class Pages:
    """A server whose metrics page counts how often it was asked for."""

    def __init__(self, *answers):
        self.answers = answers
        self.asked = 0

    async def serve(self, reader, writer):
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                answer = self.answers[min(self.asked, len(self.answers) - 1)]
                self.asked += 1
                writer.write(answer % {b"n": self.asked} if b"%(n)" in answer else answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def watch(pages, seconds=0.35, every_s=0.05):
    server = await asyncio.start_server(pages.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with scraping(f"http://127.0.0.1:{port}/v1", every_s=every_s) as scrape:
        await asyncio.sleep(seconds)
    server.close()
    return scrape


async def test_series_grow_while_the_run_goes_on():
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 36\r\n\r\nllamacpp:tokens_predicted_total %(n)04d"
    pages = Pages(body)
    scrape = await watch(pages)
    (series,) = scrape.series
    assert (series.name, series.unit, series.kind) == ("output_tokens", "tokens", "counter")
    assert series.source == "llamacpp:tokens_predicted_total"
    # The first, some on the way, the last; on a busy machine not every turn comes.
    assert series.values == list(range(1, pages.asked + 1))
    assert 3 <= pages.asked <= 10
    assert series.at_ns == sorted(series.at_ns)
    assert scrape.busy_s < 0.1


async def test_no_metrics_page_is_said_and_asked_for_once():
    pages = Pages(page(404, b'{"detail": "Not Found"}'))
    scrape = await watch(pages, seconds=0.1)
    assert scrape.series == []
    assert scrape.why_not == "/metrics: HTTP 404 application/json"
    assert pages.asked == 1


async def test_a_page_of_names_nobody_knows():
    scrape = await watch(Pages(page(200, b"python_gc 1\n", "text/plain")), seconds=0.1)
    assert scrape.why_not == "/metrics shows no name that is known here"


async def test_a_page_that_fails_on_the_way_leaves_a_gap():
    good = page(200, b"tgi_queue_size 1\n", "text/plain")
    scrape = await watch(Pages(good, page(500, b""), good))
    assert scrape.failures == 1
    assert len(scrape.series[0].values) == scrape.pages >= 2


async def test_a_position_was_at_zero_before_it_was_shown():
    """Servers show one from its first count on; what it grew by since the first page is known."""
    name = b"llamacpp:spec_decode_num_accepted_tokens_per_pos_total"
    nothing = page(200, b"tgi_queue_size 1\n", "text/plain")
    first = page(200, b'%b{position="0"} 5\n' % name, "text/plain")
    scrape = await watch(Pages(nothing, nothing, first))
    (queue,) = (s for s in scrape.series if s.name == "waiting")
    (series,) = (s for s in scrape.series if s.name == "accepted_at")
    assert (series.position, series.source) == (0, name.decode())
    assert series.values == [0, 0] + [5] * (scrape.pages - 2)
    assert series.at_ns[:2] == queue.at_ns
    assert series.at_ns == sorted(series.at_ns)
