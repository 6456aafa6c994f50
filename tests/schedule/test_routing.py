"""Routers choose by what they are told: tables of views, and what each must answer."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.schedule.routing import (
    AtRandom,
    BySession,
    KvAware,
    LeastLoaded,
    PowerOfTwo,
    PrefixAware,
    RoundRobin,
    View,
    Wanted,
    matched,
)

SOME = Wanted(tokens=100)


def views(*outstanding: int) -> list[View]:
    return [View(number, count) for number, count in enumerate(outstanding)]


def test_round_robin_takes_turns_and_passes_over_those_that_are_gone() -> None:
    router, all_three = RoundRobin(), views(0, 0, 0)
    assert [router.choose(SOME, all_three).number for _ in range(5)] == [0, 1, 2, 0, 1]
    assert router.choose(SOME, [all_three[0]]).number == 0
    assert router.choose(SOME, all_three).number == 1


def test_least_loaded_breaks_ties_by_turns() -> None:
    router = LeastLoaded()
    assert router.choose(SOME, views(3, 1, 2)).number == 1
    assert [router.choose(SOME, views(5, 2, 2)).number for _ in range(4)] == [2, 1, 2, 1]


def test_power_of_two_never_takes_the_busiest_of_many() -> None:
    router, loads = PowerOfTwo(seed=1), views(9, 1, 1, 1)
    chosen = Counter(router.choose(SOME, loads).number for _ in range(300))
    assert chosen[0] == 0
    assert min(chosen[n] for n in (1, 2, 3)) > 50
    assert PowerOfTwo(seed=1).choose(SOME, views(7)).number == 0


def test_random_is_even_and_the_same_for_a_seed() -> None:
    def draws(seed: int) -> list[int]:
        router = AtRandom(seed)
        return [router.choose(SOME, views(0, 0, 0)).number for _ in range(900)]

    assert draws(1) == draws(1) != draws(2)
    assert min(Counter(draws(1)).values()) > 240


def test_a_session_stays_and_only_its_own_move_when_a_replica_goes() -> None:
    router, all_four = BySession(), views(0, 9, 0, 0)
    sessions = [Wanted(tokens=1, session=f"s{i}") for i in range(400)]
    before = [router.choose(session, all_four).number for session in sessions]
    assert before == [router.choose(session, all_four).number for session in sessions]
    assert min(Counter(before).values()) > 60
    without = [view for view in all_four if view.number != 2]
    after = [router.choose(session, without).number for session in sessions]
    assert all(new == old for old, new in zip(before, after, strict=True) if old != 2)
    assert router.choose(SOME, all_four).number != 1  # without a session: the least loaded


def wanted(*chain: int) -> Wanted:
    return Wanted(tokens=16 * len(chain), chain=chain, page_tokens=16)


def test_kv_aware_goes_where_the_prefix_is_until_the_crowd_costs_more() -> None:
    router = KvAware(load_tokens=10)
    there = View(1, known={1, 2, 3})
    assert router.choose(wanted(1, 2, 3, 4), [View(0), there]).number == 1
    there.outstanding = 4  # 40 tokens' worth, against 48 found
    assert router.choose(wanted(1, 2, 3, 4), [View(0), there]).number == 1
    there.outstanding = 5
    assert router.choose(wanted(1, 2, 3, 4), [View(0), there]).number == 0
    waiting = View(0, pending_tokens=60)
    assert router.choose(wanted(1, 2, 3, 4), [waiting, there]).number == 1


def test_prefix_aware_expects_what_it_sent_and_forgets_what_cannot_be_kept() -> None:
    router, two = PrefixAware(pages=4, load_tokens=0), views(0, 0)
    first = router.choose(wanted(1, 2), two).number
    other = router.choose(wanted(7, 8), two).number
    assert first != other  # a tie: by turns
    assert router.choose(wanted(1, 2, 3), two).number == first
    router.choose(wanted(1, 2, 30, 31), two)  # the fifth page drives out the oldest, 3
    assert router.choose(wanted(1, 2, 3), two).number == first
    router.forget(first)
    assert router.choose(wanted(7, 8), two).number == other
    assert router.choose(wanted(1, 2), two).number in (0, 1)


def test_prefix_aware_keeps_no_more_than_it_may() -> None:
    router, one = PrefixAware(pages=10), views(0)
    for i in range(50):
        router.choose(wanted(*range(100 * i, 100 * i + 7)), one)
    assert len(router.known(one[0])) == 10  # type: ignore[arg-type]


@given(chain=st.lists(st.integers(), unique=True, max_size=40), data=st.data())
def test_matched_counts_the_known_prefix(chain: list[int], data: st.DataObject) -> None:
    known = data.draw(st.integers(0, len(chain)))
    assert matched(chain, set(chain[:known])) == known


@pytest.mark.parametrize(
    "router", [RoundRobin(), AtRandom(0), LeastLoaded(), PowerOfTwo(0), BySession(), KvAware()]
)
def test_the_only_one_is_chosen(router) -> None:
    assert router.choose(Wanted(5, session="a", chain=(1, 2)), [View(3, 99)]).number == 3
