"""Sizing a KV pool: hits that can be counted by hand, and where more memory stops helping."""

import msgspec
import numpy as np
import pytest

from penstock.plan import cache
from penstock.plan.cache_sizes import checked, grid, tokens_of
from penstock.plan.knee import Pool, enough, knee
from penstock.predict.steptime import Costs
from penstock.simulate import Fleet, Group
from penstock.workload.traces import Trace, read_trace
from tests.plan.paths import TRACES

MOONCAKE = TRACES / "mooncake_conversation.jsonl"
PAGE = 16


def fleet(*, max_running=4, compute=1e-4, **more):
    policy = {"preset": "penstock", "max_running": max_running, "max_step_tokens": 1024}
    costs = Costs(step=0.01, compute=compute)
    group = Group(costs=costs, page_tokens=PAGE, policy=policy, kv_bytes_per_token=1e6, **more)
    return Fleet(name="test", replicas=(group,))


def alternating(rounds=6, pages=10, apart_s=10.0):
    """Two users take turns with prompts of their own, each always the same; one page is fresh."""
    turns = 2 * rounds
    return Trace(
        format="two users",
        at_s=np.arange(turns) * apart_s,
        prompt_tokens=np.full(turns, pages * PAGE + 1),
        output_tokens=np.full(turns, 2),
        blocks=[((1000 * (i % 2), 1000 * (i % 2) + pages),) for i in range(turns)],
        block_tokens=PAGE,
    )


def asked(trace, on=None, **more):
    return cache.question(on or fleet(), trace, "test", **more)


def swept(question, sizes, *, closer=False):
    return cache.sweep(question, list(cache.pools(question, sizes, closer=closer)))


def test_two_users_need_room_for_both():
    question = asked(alternating())
    found = swept(question, [question.least, 26])
    small, both, never = found.pools
    # Of ten requests the ten shared pages are hits, of the first two none.
    most = 10 * 160 / (12 * 161)
    assert never.hit_rate == both.hit_rate == pytest.approx(most)
    assert small.hit_rate == 0
    assert not small.saturated
    assert both.gigabytes == pytest.approx(26 * PAGE * 1e6 / 1e9)
    assert found.knee.at == both
    assert found.knee.below == small
    assert found.knee.reason == "prefixes"
    assert "every reusable prefix stays" in found.knee.says


def test_the_gap_below_the_knee_is_halved():
    question = asked(alternating())
    sizes = grid(question, 3)
    rough, fine = swept(question, sizes), swept(question, sizes, closer=True)
    assert len(fine.pools) > len(rough.pools)
    assert fine.knee.at.pages <= rough.knee.at.pages
    assert fine.knee.below.pages >= rough.knee.below.pages


def test_a_pool_may_limit_the_batch_and_nothing_else():
    # All come at once and share next to nothing: memory only lets more of them run together.
    crowd = alternating(rounds=12, apart_s=0.0)
    own = [((0, 1), (1000 * i + 1, 1000 * i + 10)) for i in range(len(crowd))]
    crowd = msgspec.structs.replace(
        crowd, blocks=own, output_tokens=np.full(len(crowd), 200), at_s=np.zeros(len(crowd))
    )
    question = asked(crowd, fleet(max_running=8, compute=1e-6))
    found = swept(question, [question.least, 4 * question.least, 10 * question.least])
    assert found.pools[0].short_of_pages > 0.9
    assert found.pools[0].saturated  # all came at once
    assert found.unbounded.short_of_pages == 0
    assert found.pools[0].output_tokens_per_s < 0.5 * found.unbounded.output_tokens_per_s
    assert found.knee.reason == "batch"
    assert "KV limits the batch no longer" in found.knee.says


def test_the_grid_goes_from_the_longest_request_to_everything():
    question = asked(alternating(), fleet(kv_tokens=20 * PAGE))
    sizes = grid(question, 5)
    assert sizes[0] == question.least == 11  # 163 tokens, the last of which is never computed
    assert sizes[-1] < question.everything
    assert 20 in sizes
    assert swept(question, sizes).held.pages == 20


def test_sizes_are_written_in_tokens_or_bytes():
    read = {"200000": 200_000, "200k": 200_000, " 2M": 2_000_000, "40GB": 400_000, "1.5TB": 15e6}
    assert {text: tokens_of(text, 1e5) for text in read} == read
    for text in ("", "x", "-3k", "4gb", "nanGB", "0"):
        with pytest.raises(ValueError, match="is no size"):
            tokens_of(text, 1e5)
    with pytest.raises(ValueError, match="name the --model, or give tokens"):
        tokens_of("40GB", None)


def test_what_cannot_be_sized_is_said():
    question = asked(alternating())
    with pytest.raises(ValueError, match=r"100 tokens cannot hold .* take at least 176 tokens"):
        checked(question, [100, 1000])
    assert checked(question, [1000, 176, 1007]) == [11, 62]
    with pytest.raises(ValueError, match="change that with its speed alone"):
        asked(alternating(), concurrency=3)
    sessions = msgspec.structs.replace(
        alternating(), sessions=[np.array([0, 2]), np.array([1, 3])], think_s=[0.0] * 12
    )
    with pytest.raises(ValueError, match="how many sessions go on at once"):
        asked(sessions)
    split = Fleet(
        replicas=tuple(Group(role=role, costs=Costs(step=1.0)) for role in ("prefill", "decode"))
    )
    with pytest.raises(ValueError, match="leave roles and autoscale out"):
        asked(alternating(), split)


def test_sessions_run_at_a_rate_or_side_by_side():
    sessions = msgspec.structs.replace(
        alternating(), sessions=[np.arange(0, 12, 2), np.arange(1, 12, 2)], think_s=[1.0] * 12
    )
    for load in ({"concurrency": 1}, {"rate": 5.0}):
        question = asked(sessions, **load)
        pool = cache.measure(question, question.everything)
        assert pool.hit_rate == pytest.approx(10 * 160 / (12 * 161))


def test_what_is_longer_than_the_context_is_left_out():
    trace = alternating()
    trace.prompt_tokens[3:5] = 500
    question = asked(trace, context=400)
    assert question.requests == 10
    assert question.plan.notes == [
        "2 of 12 requests are longer than the context of 400 tokens and left out"
    ]
    with pytest.raises(ValueError, match="no request of the trace fits a context of 4 tokens"):
        asked(trace, context=4)


def pool(pages, hits=0.5, speed=100.0, wait=1.0, short=0.0, saturated=False):
    return Pool(
        pages=pages,
        tokens=pages * PAGE,
        gigabytes=None,
        hit_rate=hits,
        output_tokens_per_s=speed,
        ttft_p50_s=wait,
        ttft_p99_s=wait,
        short_of_pages=short,
        busy=0.5,
        saturated=saturated,
        preemptions=0,
        finished=1,
        failed=0,
    )


@pytest.mark.parametrize(
    ("pools", "at", "reason"),
    [
        ([pool(1, hits=0.1, wait=9), pool(2), pool(3)], 2, "prefixes"),
        # Who waits longest is chance where nothing is forgotten and nobody waits for pages.
        ([pool(1, hits=0.1, wait=9), pool(2, wait=1.3), pool(3)], 2, "prefixes"),
        ([pool(1, wait=9, short=0.5), pool(2), pool(3)], 2, "batch"),
        ([pool(1, hits=0.1, wait=9), pool(2, hits=0.4, saturated=True), pool(3)], 2, "compute"),
        ([pool(1, hits=0.1, wait=9), pool(2, hits=0.4), pool(3)], 2, "load"),
        ([pool(1, hits=0.1, speed=98.9), pool(2, hits=0.1, speed=99.1), pool(3)], 2, "load"),
        # One that is as good by chance below one that is not: the knee is above both.
        ([pool(1), pool(2, wait=9, hits=0.1), pool(3), pool(4)], 3, "prefixes"),
        ([pool(1), pool(2)], 1, "prefixes"),
    ],
)
def test_the_knee_and_its_reason(pools, at, reason):
    found = knee(pools)
    assert found.at.pages == at == pools[enough(pools)].pages
    assert found.reason == reason


def test_the_knee_may_come_before_every_prefix_stays():
    pools = [pool(1, hits=0.1, wait=9), pool(2, hits=0.3), pool(4, hits=0.495), pool(8)]
    found = knee(pools)
    assert (found.at.pages, found.complete.pages) == (2, 4)


@pytest.mark.skipif(not MOONCAKE.exists(), reason=f"{MOONCAKE} is not there; set PENSTOCK_DATA")
def test_a_pool_that_never_forgets_finds_what_the_trace_says():
    trace = read_trace(MOONCAKE, limit=600)
    question = asked(trace, fleet(max_running=64), page_tokens=512, speed=0.01)
    seen, hits = set(), 0
    for runs, prompt in zip(trace.blocks, trace.prompt_tokens.tolist(), strict=True):
        ids = [id_ for start, stop in runs for id_ in range(start, stop)]
        # Whole pages only, and the last token of a prompt is always computed.
        whole = min((prompt - 1) // 512, len(ids))
        hits += 512 * next((n for n, id_ in enumerate(ids[:whole]) if id_ not in seen), whole)
        seen.update(ids[: prompt // 512])
    found = cache.measure(question, question.everything)
    assert found.hit_rate == pytest.approx(hits / trace.prompt_tokens.sum())
