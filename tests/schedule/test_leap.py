"""`leap(k)` equals walking: same state, same pages, same ends, in fewer plans."""

from __future__ import annotations

import random

import pytest

from penstock.schedule import Policy, Scheduler, Sequence


def build(seed: int) -> tuple[Scheduler, list[tuple[int, Sequence]]]:
    rng = random.Random(seed)
    budget = {0: None, 1: 32, 2: 40}[seed % 3]
    policy = Policy(
        kv_budget=budget,
        kv_keep="random" if seed % 2 else "streaming",
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
        room = scheduler.pool.total * scheduler.page_size
        prompt = rng.randrange(1, min(40, room))
        limit = prompt + rng.randrange(1, min(50, scheduler.limits.capacity - prompt) + 1)
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


def state(scheduler: Scheduler) -> object:
    """All that decides what comes next: who holds which pages, what is free, what is cached."""
    alive = scheduler._sequences.values()
    pool = scheduler.pool
    return (
        [(s.id, s.state, s.computed, s.dropped, tuple(s.pages), s.indexed) for s in alive],
        tuple(pool._free),
        tuple(pool._cached),
        dict(pool.index._child),
    )


def live(seed: int, stride: int) -> tuple[list[object], int, dict[int, object]]:
    """Serve all arrivals, `stride` steps a plan at most: what happened when, plans, states."""
    scheduler, arrivals = build(seed)
    rng = random.Random(seed)
    step, plans, story, states = 0, 0, [], {}
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
        if stride > 1 and rng.random() < 0.3:  # something came up: take fewer steps than planned
            plan.steps = rng.randint(1, plan.steps)
        step += plan.steps
        scheduler.apply(plan)
        scheduler.check()
        story += [("end", step, e.sequence.id, e.reason) for e in scheduler.ended]
        scheduler.ended.clear()
        states[step] = state(scheduler)
    return story, plans, states


@pytest.mark.parametrize("seed", range(30))
def test_leap_equals_walk(seed: int) -> None:
    walked, steps, each = live(seed, 1)
    for stride in (3, 1 << 30):
        leapt, plans, states = live(seed, stride)
        assert leapt == walked
        assert all(states[step] == each[step] for step in states)
    assert plans < steps


def test_where_pages_are_plenty_a_leap_passes_their_borders() -> None:
    scheduler = Scheduler(Policy(max_running=4, max_step_tokens=64), pages=100, page_size=4)
    for i in range(2):
        scheduler.add(Sequence(id=i, prompt=5, limit=105))
    scheduler.apply(scheduler.schedule())
    plan = scheduler.leap(1 << 30)
    assert plan.steps == 99
    scheduler.apply(plan)
    assert [ended.reason for ended in scheduler.ended] == ["length"] * 2
    scheduler.check()
