"""Dealing a plan out: every ask to one worker, and nothing changed by their number."""

import pytest

from penstock.record.run import Load
from penstock.workload.plan import Ask, Asks, Plan, deal


def plan(load, count=37, warmup=5):
    def make(i):
        return Ask(id=str(i), content="x", prompt_tokens=1, output_tokens=1)

    return Plan(load=load, asks=Asks(make, range(count)), warmup=warmup, think_s=0.5)


@pytest.mark.parametrize("workers", range(1, 17))
@pytest.mark.parametrize(
    "load", [Load(kind="open", rate=1.0), *(Load(kind="closed", concurrency=c) for c in (3, 8, 16))]
)
def test_each_ask_goes_to_one_worker(load, workers):
    whole = plan(load)
    shares = deal(whole, workers)
    assert len(shares) == min(workers, load.concurrency or workers)
    dealt = [ask.id for share in shares for ask in share.asks]
    assert sorted(dealt, key=int) == [ask.id for ask in whole.asks]
    assert sum(share.warmup for share in shares) == whole.warmup
    for share in shares:
        assert [int(ask.id) for ask in share.asks] == sorted(int(ask.id) for ask in share.asks)
        warm = [ask.id for ask in share.asks if int(ask.id) < whole.warmup]
        assert len(warm) == share.warmup
        assert share.think_s == whole.think_s


@pytest.mark.parametrize("workers", range(1, 17))
def test_slots_are_dealt_with_the_asks_of_their_turn(workers):
    whole = plan(Load(kind="closed", concurrency=6), count=60)
    shares = deal(whole, workers)
    assert sum(share.load.concurrency for share in shares) == 6
    # As many asks a slot everywhere, so that no worker runs dry before the others.
    assert {len(share.asks) / share.load.concurrency for share in shares} == {10.0}


def test_there_are_never_more_workers_than_work():
    assert len(deal(plan(Load(kind="open", rate=1.0), count=2), 16)) == 2
    with pytest.raises(ValueError, match="workers must be 1 or more"):
        deal(plan(Load(kind="open", rate=1.0)), 0)


def test_asks_are_made_when_looked_at():
    made = []

    def make(i):
        made.append(i)
        return Ask(id=str(i), content="x", prompt_tokens=1, output_tokens=1)

    asks = Asks(make, range(1_000_000))
    assert (len(asks), made) == (1_000_000, [])
    assert asks[10:20:2][1].id == "12"
    assert made == [12]
