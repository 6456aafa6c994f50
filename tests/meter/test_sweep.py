"""Where a sweep goes and where it stops, against servers that are a formula."""

import pytest

from penstock.meter.sweep import POINTS, Seen, flat, overloaded, sweep


def climb(server, **changes):
    """A `measure` that asks the formula and notes the loads."""
    loads = []

    async def measure(load):
        loads.append(load)
        return server(load)

    return loads, measure


def slots(limit, noise=0.02):
    """A closed loop whose throughput grows as 10 a slot up to so many slots."""

    def server(load):
        x = 10 * min(load, limit)
        return Seen(
            load=load,
            throughput=x,
            ci95=[x * (1 - noise), x * (1 + noise)],
            answered=x / 10,
            wait_s=load / x,
            failed=0.0,
        )

    return server


def queue(capacity):
    """An open loop: waits 1/(capacity - load) below capacity, and answers no more than that."""

    def server(load):
        inside = min(load, capacity)
        wait = 1 / (capacity - load) if load < capacity else 30.0
        return Seen(
            load=load, throughput=inside, ci95=None, answered=inside, wait_s=wait, failed=0.0
        )

    return server


async def test_a_closed_loop_stops_past_saturation_and_looks_closer():
    loads, measure = climb(slots(24))
    swept = await sweep(measure, 1, whole=True)
    assert loads[:8] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert len(set(loads)) == len(loads) <= 12
    assert all(load == int(load) for load in loads)
    assert 22 <= swept.best <= 28
    assert "throughput does not grow beyond its interval" in swept.stopped


async def test_an_open_loop_stops_where_the_server_falls_behind():
    loads, measure = climb(queue(10))
    swept = await sweep(measure, 1, whole=False)
    assert loads[:5] == [1, 2, 4, 8, 16]
    assert 8 <= swept.best < 10
    assert max(loads) == 16
    assert swept.stopped == "at 16 requests/s the server answered 10 requests/s"


async def test_an_open_loop_that_begins_past_saturation_climbs_down():
    loads, measure = climb(queue(10))
    swept = await sweep(measure, 64, whole=False)
    assert loads[:4] == [64, 32, 16, 8]
    assert 8 <= swept.best < 10


async def test_a_sweep_without_saturation_ends_and_says_so():
    loads, measure = climb(slots(1e9))
    swept = await sweep(measure, 1, whole=True)
    assert len(loads) == POINTS
    assert "no saturation" in swept.stopped


async def test_a_sweep_ends_when_it_is_told():
    async def measure(load):
        return slots(24)(load) if load < 8 else None

    swept = await sweep(measure, 1, whole=True)
    assert swept.best is None
    assert "ended early" in swept.stopped


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"failed": 0.5}, "at 8 requests/s 50% of the requests failed"),
        ({"answered": 4.0}, "the server answered 4 requests/s"),
        ({"wait_s": 11.0}, "wait for the first token was 11 s, 1 s at best"),
        ({}, None),
    ],
)
def test_what_makes_an_open_loop_overloaded(changes, says):
    usual = {"throughput": 1.0, "ci95": None, "wait_s": 1.0, "failed": 0.0}
    first = Seen(load=4.0, answered=4.0, **usual)
    last = Seen(**{"load": 8.0, "answered": 8.0} | usual | changes)
    best, why = overloaded([first, last])
    assert best == (8.0 if says is None else 4.0)
    assert (says in why) if says else why is None


def test_a_growth_within_the_noise_is_none():
    noisy = slots(1e9, noise=2.0)
    assert flat([noisy(load) for load in (1, 2, 3)])[0] == 1
    assert flat([slots(1e9)(load) for load in (1, 2, 3)])[0] == 3
