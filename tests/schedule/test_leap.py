"""`leap(k)` equals walking: same state, same pages, same ends, in fewer plans."""

from __future__ import annotations

import random

import pytest

from penstock.schedule import Policy, Scheduler, Sequence


def build(seed: int) -> tuple[Scheduler, list[tuple[int, Sequence]]]:
    rng = random.Random(seed)
    policy = Policy(
        max_running=rng.randrange(1, 12),
        max_step_tokens=64,
        align_chunks=rng.random() < 0.5,
        admit=rng.choice(["chunk", "known", "limit"]),
    )
    scheduler = Scheduler(policy, pages=rng.choice([24, 60]), page_size=rng.choice([2, 8]))
    arrivals, at = [], 0
    for i in range(20):
        at += rng.choice([0, 1, 7, 40])
        blocks = [rng.randrange(4) for _ in range(12)]
        room = scheduler.capacity() - 1
        prompt = rng.randrange(1, min(40, room))
        limit = prompt + rng.randrange(1, min(50, scheduler.capacity() - prompt) + 1)
        sequence = Sequence(
            id=i,
            prompt=prompt,
            limit=limit,
            keys=lambda page, b=blocks, n=prompt // scheduler.page_size: (
                (page, b[page]) if page < min(n, len(b)) else None
            ),
        )
        arrivals.append((at, sequence))
    return scheduler, arrivals


def live(seed: int, stride: int) -> tuple[list[object], int]:
    """Serve all arrivals, `stride` steps a plan at most; return what happened when."""
    scheduler, arrivals = build(seed)
    step, plans, story = 0, 0, []
    while arrivals or scheduler.has_work:
        while arrivals and arrivals[0][0] <= step:
            scheduler.add(arrivals.pop(0)[1])
        until = arrivals[0][0] - step if arrivals else 1 << 30
        plan = scheduler.leap(min(stride, until))
        if plan is None:
            assert arrivals
            step = arrivals[0][0]
            continue
        plans += 1
        story += [("chunk", step, c.sequence.id, c.start, c.end) for c in plan.chunks]
        story += [("page", step, s.id, tuple(s.pages)) for s in plan.grown]
        step += plan.steps
        scheduler.apply(plan)
        scheduler.check()
        story += [("end", step, e.sequence.id, e.reason) for e in scheduler.ended]
        scheduler.ended.clear()
        pool = scheduler.pool
        if plan.steps > 1:
            assert pool.free + pool.held + pool.cached == pool.total
    return story, plans


@pytest.mark.parametrize("seed", range(30))
def test_leap_equals_walk(seed: int) -> None:
    walked, steps = live(seed, 1)
    for stride in (3, 1 << 30):
        leapt, plans = live(seed, stride)
        assert leapt == walked
    assert plans < steps
