"""The server's own account of itself while it is measured: its metrics page, once a second.

The page is Prometheus' text. One regular expression finds the few series that
explain a figure; a parser of the whole page would make thousands of objects while
the load runs (docs/servers.md has the cost of both), and its library would be a
dependency of everybody for that alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncIterator
from time import monotonic_ns, thread_time

import msgspec

from penstock.meter.client import Client, Exchange
from penstock.record.series import Kind, Series

EVERY_S = 1.0
PATIENCE_S = 5.0  # with a page that does not come


class _Meaning(msgspec.Struct, frozen=True):
    """One quantity, and what servers call it. A page with several of the names shows the first."""

    name: str
    unit: str
    kind: Kind
    theirs: tuple[str, ...]


def _meaning(row: str) -> _Meaning:
    name, unit, kind, *theirs = row.split()
    fields = {"name": name, "unit": unit, "kind": kind, "theirs": theirs}
    return msgspec.convert(fields, _Meaning)


# Ours, then what it is called by penstock, vLLM (also as it was), SGLang, llama.cpp, TGI.
_TABLE = """
running requests gauge
    penstock:num_requests_running vllm:num_requests_running sglang:num_running_reqs
    llamacpp:requests_processing tgi_batch_current_size

waiting requests gauge
    penstock:num_requests_waiting vllm:num_requests_waiting sglang:num_queue_reqs
    llamacpp:requests_deferred tgi_queue_size

kv_usage share gauge
    penstock:kv_cache_usage_perc vllm:kv_cache_usage_perc vllm:gpu_cache_usage_perc
    sglang:token_usage llamacpp:kv_cache_usage_ratio

preemptions requests counter
    penstock:num_preemptions_total vllm:num_preemptions_total sglang:num_retracted_requests_total

prompt_tokens tokens counter
    penstock:prompt_tokens_total vllm:prompt_tokens_total sglang:prompt_tokens_total
    llamacpp:prompt_tokens_total tgi_request_input_length_sum

output_tokens tokens counter
    penstock:generation_tokens_total vllm:generation_tokens_total sglang:generation_tokens_total
    llamacpp:tokens_predicted_total tgi_request_generated_tokens_sum

prefix_queries tokens counter
    penstock:prefix_cache_queries_total vllm:prefix_cache_queries_total
    vllm:gpu_prefix_cache_queries_total

prefix_hits tokens counter
    penstock:prefix_cache_hits_total vllm:prefix_cache_hits_total
    vllm:gpu_prefix_cache_hits_total sglang:cached_tokens_total llamacpp:prompt_tokens_cached_total

prefix_hit_rate share gauge
    sglang:cache_hit_rate

drafted tokens counter
    penstock:spec_decode_num_draft_tokens_total vllm:spec_decode_num_draft_tokens_total
    llamacpp:spec_decode_num_draft_tokens_total

accepted tokens counter
    penstock:spec_decode_num_accepted_tokens_total vllm:spec_decode_num_accepted_tokens_total
    llamacpp:spec_decode_num_accepted_tokens_total

drafts drafts counter
    penstock:spec_decode_num_drafts_total vllm:spec_decode_num_drafts_total
    llamacpp:spec_decode_num_drafts_total

drafted_at tokens counter
    penstock:spec_decode_num_draft_tokens_per_pos_total

accepted_at tokens counter
    penstock:spec_decode_num_accepted_tokens_per_pos_total
    vllm:spec_decode_num_accepted_tokens_per_pos_total
    llamacpp:spec_decode_num_accepted_tokens_per_pos_total

drafting s counter
    penstock:spec_decode_seconds_total

sequence_steps steps counter
    penstock:sequence_steps_total

tokens_per_step tokens/step gauge
    sglang:spec_accept_length
"""

_THEIRS: dict[bytes, _Meaning] = {
    name.encode(): meaning
    for meaning in map(_meaning, _TABLE.strip().split("\n\n"))
    for name in meaning.theirs
}
_LINE = re.compile(
    rb"^(%b)(\{.*\})? +([^ \n]+)" % b"|".join(re.escape(name) for name in _THEIRS), re.MULTILINE
)
_POSITION = re.compile(rb'[{,]position="(\d{1,2})"')  # a hundred are plenty of any page
_SHARED = ("share", "tokens/step")  # units of which engines side by side have a mean, not a sum
# Parts of one engine that each show the whole engine's figures (SGLang).
_ANOTHER_RANK = re.compile(rb'[{,](?:tp|pp|moe_ep)_rank="[1-9]')


def read_page(page: bytes) -> dict[tuple[bytes, int | None], float]:
    """Values by the name on the page and the position, where it names one.

    Of engines side by side the sum, of shares the mean.
    """
    found: dict[tuple[bytes, int | None], list[float]] = {}
    for name, labels, text in _LINE.findall(page):
        if _ANOTHER_RANK.search(labels):
            continue
        with contextlib.suppress(ValueError):
            value = float(text)
            if not math.isnan(value):
                place = _POSITION.search(labels)
                position = int(place[1]) if place else None
                found.setdefault((name, position), []).append(value)
    return {
        key: sum(values) / (len(values) if _THEIRS[key[0]].unit in _SHARED else 1)
        for key, values in found.items()
    }


class Scrape:
    """The series of a server's metrics page, growing while it is watched."""

    def __init__(self) -> None:
        self.pages = self.failures = 0
        self.busy_s = 0.0  # this process' time spent on reading pages
        self.why_not: str | None = None  # why there is nothing, if there is nothing
        self._by_name: dict[bytes, dict[int | None, Series]] = {}
        self._read_ns: list[int] = []  # when the first page came, and the last

    @property
    def series(self) -> list[Series]:
        """One for each quantity that the page shows, and each position where it tells them."""
        chosen: dict[str, dict[int | None, Series]] = {}
        for name, meaning in _THEIRS.items():
            if name in self._by_name:
                chosen.setdefault(meaning.name, self._by_name[name])
        return [series for placed in chosen.values() for series in placed.values()]

    def take(self, exchange: Exchange) -> None:
        """Read what came for one page."""
        began = thread_time()
        kind = exchange.headers.get("content-type", "")
        if exchange.status != 200 or exchange.error or kind.startswith("text/html"):
            self.failures += 1
            told = exchange.error or f"HTTP {exchange.status} {kind}"
            self.why_not = self.why_not or f"/metrics: {told}"
            return
        values = read_page(exchange.body)
        if not values:
            self.why_not = self.why_not or "/metrics shows no name that is known here"
        # What it says was so when it was written, just before it arrived.
        when = exchange.pieces[0][0]
        for (name, position), value in values.items():
            placed = self._by_name.setdefault(name, {})
            if position not in placed:
                placed[position] = self._begin(name, position)
            placed[position].at_ns.append(when)
            placed[position].values.append(value)
        self._read_ns = [*self._read_ns[:1], when]
        self.pages += 1
        self.busy_s += thread_time() - began

    def _begin(self, name: bytes, position: int | None) -> Series:
        ours = _THEIRS[name]
        # A position is shown from its first count on: on the pages before, it was zero.
        known = self._read_ns if position is not None else []
        return Series(
            name=ours.name,
            unit=ours.unit,
            kind=ours.kind,
            source=name.decode(),
            position=position,
            at_ns=list(known),
            values=[0.0] * len(known),
        )


@contextlib.asynccontextmanager
async def scraping(
    url: str, *, api_key: str | None = None, every_s: float = EVERY_S
) -> AsyncIterator[Scrape]:
    """Read the metrics page of the server at `url` now, every `every_s` seconds, and at the end.

    A server without such a page is asked once; `why_not` then says what came.
    Raises `ValueError` for a bad URL.
    """
    client, scrape = Client(url, api_key=api_key, timeout_s=PATIENCE_S), Scrape()
    scrape.take(await client.get("/metrics"))
    if not scrape.series:
        client.close()
        yield scrape
        return
    task = asyncio.create_task(_again(client, scrape, every_s))
    try:
        yield scrape
    finally:
        task.cancel()
        await asyncio.wait({task})
        scrape.take(await client.get("/metrics"))
        client.close()


async def _again(client: Client, scrape: Scrape, every_s: float) -> None:
    begun_ns, turn = monotonic_ns(), 0
    while True:
        # On an absolute schedule; a turn that a slow page took is left out.
        turn = max(turn + 1, int((monotonic_ns() - begun_ns) * 1e-9 / every_s) + 1)
        await asyncio.sleep(begun_ns * 1e-9 + turn * every_s - monotonic_ns() * 1e-9)
        scrape.take(await client.get("/metrics"))
