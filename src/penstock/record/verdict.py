"""Whether a figure may be claimed: VALID, or INVALID with every reason and its remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from penstock.record import metrics
from penstock.record.record import Outcome, Record
from penstock.record.run import Point
from penstock.record.stats import samples_for
from penstock.record.steady import Window

MIN_WINDOW_S = 10.0
MIN_ANSWERS = 5  # of median length, one after the other, that must fit into the window
MIN_REQUESTS = samples_for(0.90)  # fewer do not even support a p90
MAX_DELAY_S = 0.010  # p99 of what the client adds before it sends ...
MAX_DELAY_SHARE = 0.05  # ... or this share of the median wait, where that is more
MAX_MISSING = 0.01  # a hundredth of the requests missing is a p99 that was not measured
MAX_CACHED = 0.01  # of prompt tokens, where no two prompts were meant to share any ...
OPENING_TOKENS = 16  # ... beyond what a chat template says before every prompt, on average
MISCOUNT, MISCOUNT_TOKENS = 0.10, 2  # two counts of an answer may differ by the larger


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why a figure may not be claimed: what was found, its threshold and the remedy.

    `code` is for programs, `says` names number and threshold for people. `at`
    is the operating point, where a list holds reasons of several.
    """

    code: str
    says: str
    remedy: str
    value: float | None = None
    threshold: float | None = None
    at: str | None = None


INTERRUPTED = Reason(
    code="interrupted",
    says="the run was interrupted before its end",
    remedy="let it run to its end",
)


def judge(point: Point, window: Window) -> list[Reason]:
    """All reasons for which the figures of this operating point may not be claimed."""
    wanted = metrics.scheduled_in(point.records, window.start_ns, window.end_ns)
    return [
        *_lost(point),
        *_length(wanted, window),
        *_steadiness(window),
        *_client(wanted),
        *_missing(wanted),
        *_tokens(metrics.finished(wanted)),
        *_cache(point, metrics.finished(wanted)),
    ]


def _lost(point: Point) -> Iterator[Reason]:
    if point.interrupted:
        yield INTERRUPTED
    if point.missing:
        yield Reason(
            code="worker_lost",
            says=f"records are missing: {'; '.join(point.missing)}",
            remedy="find out why the client lost them, and measure again",
            value=len(point.missing),
            threshold=0,
        )


def _length(wanted: Sequence[Record], window: Window) -> Iterator[Reason]:
    done = metrics.finished(wanted)
    answers = [t for r in done if (t := metrics.e2e(r)) is not None]
    answer_s = float(np.median(answers)) if answers else 0.0
    least_s = max(MIN_WINDOW_S, MIN_ANSWERS * answer_s)
    if window.seconds < least_s:
        why = f", {MIN_ANSWERS} times the median answer" if least_s > MIN_WINDOW_S else ""
        yield Reason(
            code="too_short",
            says=f"the window is {window.seconds:.3g} s long; it needs {least_s:.3g} s{why}",
            remedy="give a longer --duration, or more --requests",
            value=window.seconds,
            threshold=least_s,
        )
    whole = len(metrics.finished_requests(wanted))
    if whole < MIN_REQUESTS:
        yield Reason(
            code="too_few",
            says=f"requests answered in the window: {whole}; p90 needs {MIN_REQUESTS}",
            remedy="give a longer --duration, or more --requests",
            value=whole,
            threshold=MIN_REQUESTS,
        )


def _steadiness(window: Window) -> Iterator[Reason]:
    if not window.steady:
        yield Reason(
            code="no_window" if window.whole_run else "not_steady",
            says=window.reason or "no steady state was found",
            remedy="measure longer; in an open loop, offer less than the server can answer",
        )


def _client(wanted: Sequence[Record]) -> Iterator[Reason]:
    delays = [(r.sent_ns - r.sched_ns) / metrics.NS_PER_S for r in wanted if r.sent_ns is not None]
    if not delays:
        return
    delay = float(np.quantile(delays, 0.99))
    waits = [w for r in metrics.finished(wanted) if (w := metrics.ttft_from_schedule(r))]
    most = max(MAX_DELAY_S, MAX_DELAY_SHARE * float(np.median(waits)) if waits else 0.0)
    if delay > most:
        yield Reason(
            code="client_late",
            says=f"the client sent one request in a hundred {delay * 1000:.3g} ms late or more; "
            f"{most * 1000:.3g} ms is the limit",
            remedy="give the client more or idler processors, or another machine",
            value=delay,
            threshold=most,
        )


def _missing(wanted: Sequence[Record]) -> Iterator[Reason]:
    asked = [{r.outcome for r in choices} for choices in metrics.requests(wanted)]
    failed = sum(Outcome.FAILED in outcomes for outcomes in asked)
    cut = sum(bool({Outcome.CANCELLED, Outcome.UNFINISHED} & outcomes) for outcomes in asked)
    for code, count, what, remedy in (
        ("errors", failed, "failed", "see the errors by class; a server that sheds load is full"),
        ("cut", cut, "were cut before they ended", "let the last answers end: a longer --duration"),
    ):
        share = count / max(len(asked), 1)
        if share > MAX_MISSING:
            yield Reason(
                code=code,
                says=f"{share:.1%} of the requests in the window {what}; "
                f"{MAX_MISSING:.0%} is the limit, since the slowest may be among them",
                remedy=remedy,
                value=share,
                threshold=MAX_MISSING,
            )


def _tokens(done: Sequence[Record]) -> Iterator[Reason]:
    if done and all(r.output_tokens is None for r in done):
        yield Reason(
            code="tokens_unknown",
            says="nobody counted the tokens: neither usage nor token ids came with the answers",
            remedy="give the model's --tokenizer, or measure requests instead of tokens",
        )
    checked = [r for r in done if r.output_tokens is not None and r.recounted is not None]
    wrong = sum(
        abs((r.recounted or 0) - (r.output_tokens or 0))
        > max(MISCOUNT_TOKENS, MISCOUNT * (r.output_tokens or 0))
        for r in checked
    )
    share = wrong / max(len(checked), 1)
    if share > MAX_MISSING:
        yield Reason(
            code="token_counts",
            says=f"two counts of the output tokens differ by more than {MISCOUNT:.0%} in "
            f"{share:.1%} of the answers; {MAX_MISSING:.0%} is the limit",
            remedy="check that --tokenizer is the model's own, and what the server counts",
            value=share,
            threshold=MAX_MISSING,
        )


def _cache(point: Point, done: Sequence[Record]) -> Iterator[Reason]:
    told = [r for r in done if r.cached_tokens is not None and r.prompt_tokens]
    prompt = sum(r.prompt_tokens or 0 for r in told)
    cached = sum(r.cached_tokens or 0 for r in told)
    share = cached / prompt if prompt else 0.0
    common = cached > OPENING_TOKENS * len(told)
    if not point.shares_prefixes and share > MAX_CACHED and common:
        yield Reason(
            code="cache_hits",
            says=f"{share:.1%} of the prompt tokens came from the server's cache although no two "
            f"prompts were meant to share any; {MAX_CACHED:.0%} is the limit",
            remedy="do not reuse a --salt, and use prompts that differ from their first token on",
            value=share,
            threshold=MAX_CACHED,
        )
