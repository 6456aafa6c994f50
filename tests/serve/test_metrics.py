"""What /metrics shows after known requests, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serve import http_client
from tests.serve.conftest import REPO, Server, StartFake

TEXT = "/v1/completions"
HISTOGRAMS = {
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
}


@pytest.fixture(scope="module")
def asked(start_fake: StartFake) -> Iterator[tuple[Server, dict[str, float]]]:
    """A server that served ten requests of ten tokens, and what it shows of them."""
    with start_fake(step_s=0.02) as server:
        for stream in [True, False] * 5:
            body = {"prompt": "abcdefg", "max_tokens": 10, "stream": stream}
            assert server.post(TEXT, body).status == 200
        server.eventually(server.at_rest, "at rest")
        yield server, samples(server)


def samples(server: Server) -> dict[str, float]:
    """Every sample by name, with its labels but for histograms' buckets."""
    found = {}
    for family in text_string_to_metric_families(server.get("/metrics").body):
        for sample in family.samples:
            labels = "".join(f" {value}" for value in sample.labels.values())
            found[sample.name.removeprefix("penstock:") + labels] = sample.value
    return found


def test_each_histogram_has_every_request_once(asked: tuple[Server, dict[str, float]]) -> None:
    _, shown = asked
    counts = {name: shown[f"{name}_count"] for name in HISTOGRAMS}
    gaps = counts.pop("inter_token_latency_seconds")
    timed = {"request_queue_time_seconds", "request_prefill_time_seconds"}
    timed.add("request_decode_time_seconds")
    assert {counts[name] for name in HISTOGRAMS - timed - {"inter_token_latency_seconds"}} == {10}
    # Tokens whose events came together make one gap.
    assert 10 <= gaps <= 90
    assert shown["inter_token_latency_seconds_bucket +Inf"] == gaps
    assert shown["request_prompt_tokens_sum"] == 70
    assert shown["request_generation_tokens_sum"] == shown["generation_tokens_total"] == 100
    assert shown["requests_total length"] == 10


def test_the_times_are_true(asked: tuple[Server, dict[str, float]]) -> None:
    _, shown = asked
    per_token = shown["request_time_per_output_token_seconds_sum"] / 10
    latency = shown["e2e_request_latency_seconds_sum"] / 10
    first = shown["time_to_first_token_seconds_sum"] / 10
    # A step sleeps 20 ms; how much later it wakes is up to the machine.
    assert per_token >= 0.02
    assert first >= 0.02
    assert latency == pytest.approx(first + 9 * per_token, rel=0.2)
    assert shown["inter_token_latency_seconds_sum"] == pytest.approx(90 * per_token, rel=0.2)
    below = [shown[f"inter_token_latency_seconds_bucket {bound}"] for bound in ("0.01", "2.5")]
    assert below[0] < below[1]


def test_a_first_text_is_seen_before_the_last(start_fake: StartFake) -> None:
    with start_fake(step_s=0.01) as server:
        held = http_client.post_and_hold(
            server.address, TEXT, {"prompt": "abc", "max_tokens": 2000, "stream": True}
        )
        server.eventually(
            lambda: server.metric("time_to_first_token_seconds_count") == 1, "its first text"
        )
        assert server.metric("e2e_request_latency_seconds_count") == 0
        held.close()
        server.eventually(
            lambda: server.metric('requests_total{outcome="cancelled"}') == 1, "cancelled"
        )
        assert server.metric("e2e_request_latency_seconds_count") == 0, "it never finished"


def test_refusals_are_counted_by_code_and_probes_are_not(fake: Server) -> None:
    for _ in range(3):
        assert fake.post(TEXT, {"prumpt": "a"}).status == 400
        assert fake.get("/health").status == 200
    shown = samples(fake)
    assert (
        shown["requests_total missing_parameter"] + shown.get("requests_total unknown_parameter", 0)
        == 3
    )
    assert sum(value for name, value in shown.items() if name.startswith("requests_total ")) == 3


def test_the_page_lists_each_metric_and_no_other(asked: tuple[Server, dict[str, float]]) -> None:
    server, _ = asked
    families = {
        family.name.removeprefix("penstock:") + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(server.get("/metrics").body)
    }
    assert families >= HISTOGRAMS
    page = (REPO / "docs" / "serving.md").read_text()
    table = page[page.index("## Metrics") :]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    listed = {part.strip(" `").partition("{")[0] for row in rows for part in row.split(",")}
    assert listed == families
