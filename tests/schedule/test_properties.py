"""The scheduler's promises in random worlds: arrivals, prefixes, aborts, tiny pools."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.schedule import Policy, RequestRefused, Scheduler, Sequence
from penstock.schedule.budget import Budget
from penstock.schedule.pool import Pool
from penstock.schedule.sharing import Sharing
from tests.schedule.world import World


@st.composite
def policies(draw: st.DrawFn, page_size: int) -> Policy:
    max_running = draw(st.integers(1, 8))
    kv_cache = draw(st.sampled_from([True, True, True, False]))
    budget = draw(st.sampled_from([None, None, 4, 5, 7, 20])) if kv_cache else None
    return Policy(
        max_running=max_running,
        max_step_tokens=max_running + page_size + draw(st.integers(0, 40)) + (31 if budget else 0),
        kv_budget=budget and budget * page_size,
        kv_keep=draw(st.sampled_from(["streaming", "snapkv", "recent", "random"])),
        admit=draw(st.sampled_from(["chunk", "known", "limit"])),
        reserve=draw(st.sampled_from([0.0, 0.01, 0.3])),
        chunked_prefill=draw(st.booleans()),
        align_chunks=draw(st.booleans()),
        prefix_sharing=draw(st.booleans()),
        kv_cache=kv_cache,
        batching=draw(st.sampled_from(["continuous", "continuous", "static"])),
        fill_wait_s=draw(st.sampled_from([0.0, 3.0])),
    )


def group_fits(world: World, width: int, limit: int) -> bool:
    """Whether a group passes the door; where it does not, it must be refused there."""
    policy, pages = world.scheduler.policy, -(-(limit - 1) // world.page_size)
    fits = (
        policy.kv_cache
        and limit - 1 <= (policy.kv_budget or limit)
        and width <= policy.max_running
        and width * pages <= world.scheduler.pool.total
    )
    if not fits:
        with pytest.raises(RequestRefused):
            world.add_group("refused", width, [1] * (limit - 1), 1)
    return fits


def live(policy: Policy, pages: int, page_size: int, seed: int, requests: int) -> World:
    """Live through a random life of a world and verify everything at its end."""
    rng = random.Random(seed)
    world = World(policy, pages, page_size, random.Random(seed) if seed % 3 else None)
    stems = [[rng.randrange(1, 50) for _ in range(rng.randrange(1, 40))] for _ in range(3)]
    held = pages * page_size + 1  # what the pool can hold of one
    capacity = world.scheduler.limits.capacity
    pending = requests
    for _ in range(requests * 400):
        while pending and rng.random() < 0.5:
            pending -= 1
            stem = rng.choice(stems)
            prompt = stem[: rng.randrange(1, len(stem) + 1)]
            prompt = prompt + [rng.randrange(1, 50) for _ in range(rng.randrange(0, 12))]
            prompt = prompt[: max(1, held - 1)]
            room = capacity - len(prompt)
            limit = rng.randrange(1, min(30 if policy.kv_budget is None else 60, room) + 1)
            width = rng.choice([1, 1, 1, 2, 3])
            if width == 1 or not group_fits(world, width, len(prompt) + limit):
                world.add(f"r{pending}", prompt, limit, rng.randrange(2))
            else:
                world.add_group(f"r{pending}", width, prompt, limit)
        if rng.random() < 0.04:
            world.scheduler.abort(f"r{rng.randrange(requests)}")
        plan = world.schedule()
        if plan is not None:
            computed = world.compute(plan)
            if rng.random() < 0.04:  # between schedule and apply, pages in flight
                world.scheduler.abort(f"r{rng.randrange(requests)}")
                world.scheduler.abort(f"r{rng.randrange(requests)}.0")
            world.scheduler.apply(plan, *computed)
            world.branch(rng)
        else:
            scheduler = world.scheduler
            assert not scheduler.has_work or scheduler.wake_at is not None, "work waits, no step"
        world.check()
        world.now += 1.0
        if not pending and not world.scheduler.has_work:
            break
    world.run(requests * 400)
    world.verify()
    return world


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_random_lives(data: st.DataObject, seed: int) -> None:
    page_size = data.draw(st.sampled_from([1, 2, 4, 16]))
    pages = data.draw(st.sampled_from([1, 2, 3, 5, 8, 20, 60]))
    policy = data.draw(policies(page_size))
    live(policy, pages, page_size, seed, requests=data.draw(st.integers(1, 20)))


def test_thousands_of_steps_in_a_tiny_pool() -> None:
    world = live(Policy(max_running=6, max_step_tokens=24), 9, 4, seed=7, requests=300)
    assert world.steps > 1_000
    assert world.scheduler.preemptions > 10
    assert world.branched > 40
    assert world.came_true > 300
    assert any(s.peers and s.preemptions for s in world.sequences.values())


def test_whoever_is_admitted_up_to_the_limit_is_never_preempted() -> None:
    """A shared page that one gives up stays with the others: it cannot be counted on."""
    for seed in range(120):
        rng = random.Random(seed)
        policy = Policy(
            max_running=6,
            max_step_tokens=64,
            admit="limit",
            reserve=0.0,
            kv_budget=28,
            kv_keep=rng.choice(["streaming", "snapkv", "random"]),
        )
        world = World(policy, 20, 4)
        stem = [rng.randrange(1, 50) for _ in range(40)]
        for i in range(12):
            world.add(f"r{i}", stem[: rng.randrange(1, 40)], rng.randrange(1, 60))
        world.run()
        world.verify()
        assert world.scheduler.preemptions == 0


def test_thousands_of_steps_within_a_budget() -> None:
    policy = Policy(max_running=6, max_step_tokens=48, kv_budget=16, kv_keep="snapkv")
    world = live(policy, 14, 4, seed=7, requests=200)
    assert world.scheduler.dropped_tokens > 1_000
    assert world.scheduler.preemptions > 10
    assert world.came_true > 300


def faulty_release(monkeypatch: pytest.MonkeyPatch) -> None:
    release = Pool.release

    def twice(self: Pool, pages: list[int]) -> None:
        release(self, pages)
        if pages and pages[-1] not in self.index and self.free < self.total - 1:
            self._free.append(pages[-1])

    monkeypatch.setattr(Pool, "release", twice)


def leak_on_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    end, release = Scheduler._end, Pool.release

    def leaky(self: Scheduler, sequence, reason) -> None:
        with monkeypatch.context() as patch:
            if reason == "abort":
                patch.setattr(Pool, "release", lambda pool, pages: release(pool, pages[1:]))
            end(self, sequence, reason)

    monkeypatch.setattr(Scheduler, "_end", leaky)


def skipped_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Scheduler._fits

    def asleep(self: Scheduler, sequence) -> bool:
        if self._blocked is not None and self._blocked[0] is sequence:
            return False  # never looks again once it was blocked
        return fits(self, sequence)

    monkeypatch.setattr(Scheduler, "_fits", asleep)


def shared_page_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Pool.take

    def forgets_nothing(self: Pool, count: int) -> list[int]:
        if not self._free and self._cached:
            page = next(iter(self._cached))
            self._cached.pop(page)
            self._holders[page] = 1
            return [page, *take(self, count - 1)]  # evicted, yet still indexed
        return take(self, count)

    monkeypatch.setattr(Pool, "take", forgets_nothing)


def eviction_from_the_young_end(monkeypatch: pytest.MonkeyPatch) -> None:
    release = Pool.release
    monkeypatch.setattr(Pool, "release", lambda self, pages: release(self, pages[::-1]))


def branch_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    branch = Sharing.branch

    def shares_only(self: Sharing, parents) -> list[tuple[int, int]]:
        branch(self, parents)
        return []

    monkeypatch.setattr(Sharing, "branch", shares_only)


def branch_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    branch = Sharing.branch

    def borrows(self: Sharing, parents) -> list[tuple[int, int]]:
        with monkeypatch.context() as patch:
            patch.setattr(Pool, "share", lambda pool, page: None)
            return branch(self, parents)

    monkeypatch.setattr(Sharing, "branch", borrows)


def gap_offered_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    trim = Budget.trim

    def forgetful(self: Budget, sequence, attended) -> int:
        indexed, dropped = sequence.indexed, trim(self, sequence, attended)
        sequence.indexed = indexed
        return dropped

    monkeypatch.setattr(Budget, "trim", forgetful)


def chunk_over_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "chunk_end", lambda self, sequence, end: end)


def end_of_the_prompt_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sequence, "adoptable", property(lambda self: self.target - 1))


@pytest.mark.parametrize(
    "fault", [gap_offered_to_others, chunk_over_a_cut, end_of_the_prompt_adopted, faulty_release]
)
def test_planted_faults_of_budgets_are_caught(fault, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    policy = Policy(max_running=6, max_step_tokens=48, kv_budget=16, kv_keep="snapkv")
    with pytest.raises((AssertionError, RuntimeError, KeyError)):
        for seed in range(40):
            live(policy, 14, 4, seed, requests=12)


@pytest.mark.parametrize(
    "fault",
    [
        branch_copies_nothing,
        branch_holds_nothing,
        faulty_release,
        leak_on_abort,
        skipped_wake_up,
        shared_page_overwritten,
        eviction_from_the_young_end,
    ],
)
def test_planted_faults_are_caught(fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very properties above must fail when the code is broken on purpose."""
    fault(monkeypatch)
    with pytest.raises((AssertionError, RuntimeError, KeyError)):
        for seed in range(40):
            live(Policy(max_running=6, max_step_tokens=24), 12, 4, seed, requests=12)


def random_life(seed: int, *, budgets: bool = False) -> None:
    rng = random.Random(seed)
    page_size = rng.choice([1, 2, 4, 16])
    max_running = rng.randrange(1, 9)
    more = random.Random(seed + 1)  # apart, so that the lives that once failed stay the same
    kept = more.choice([None, 4, 5, 7, 20])
    policy = Policy(
        max_running=max_running,
        max_step_tokens=max_running + page_size + rng.randrange(40) + (31 if budgets else 0),
        kv_keep=more.choice(["streaming", "snapkv", "recent", "random"]),
        admit=rng.choice(["chunk", "known", "limit"]),
        reserve=rng.choice([0.0, 0.01, 0.3]),
        chunked_prefill=rng.random() < 0.7,
        align_chunks=rng.random() < 0.5,
        prefix_sharing=rng.random() < 0.8,
        kv_cache=rng.random() < 0.8,
        batching=rng.choice(["continuous", "continuous", "static"]),
        fill_wait_s=rng.choice([0.0, 3.0]),
    )
    if policy.kv_cache and budgets:
        policy = replace(policy, kv_budget=kept and kept * page_size)
    live(policy, rng.choice([1, 2, 3, 5, 8, 20, 60]), page_size, seed, rng.randrange(1, 60))


@pytest.mark.parametrize("seed", [265, 737])
def test_lives_that_once_failed(seed: int) -> None:
    """A peer went ahead for want of budget; a newcomer took pages of a chunk already planned."""
    random_life(seed)


@pytest.mark.slow
def test_many_more_random_lives() -> None:
    for seed in range(3_000):
        random_life(seed, budgets=seed % 2 == 1)
