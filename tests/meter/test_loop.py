"""The loop under the load: timers in their order and on time, sockets when they are ready."""

import socket
from time import monotonic_ns

import pytest

from penstock.meter.loop import TightLoop


def run(loop, until):
    deadline = monotonic_ns() + 10_000_000_000
    while not until():
        assert monotonic_ns() < deadline
        loop.turn()


def test_timers_come_in_order_and_never_early():
    loop, seen = TightLoop(), []
    start = monotonic_ns()
    for ms in (30, 10, 20, 0):
        loop.call_at(start + ms * 1_000_000, lambda ms=ms: seen.append((ms, monotonic_ns())))
    run(loop, lambda: len(seen) == 4)
    assert [ms for ms, _ in seen] == [0, 10, 20, 30]
    assert all(at >= start + ms * 1_000_000 for ms, at in seen)


def test_timers_of_the_same_time_come_in_the_order_of_asking():
    loop, seen = TightLoop(), []
    when = monotonic_ns()
    for i in range(100):
        loop.call_at(when, seen.append, i)
    run(loop, lambda: len(seen) == 100)
    assert seen == list(range(100))


def test_what_is_cancelled_does_not_happen_and_is_not_kept():
    loop, seen = TightLoop(), []
    for i in range(10_000):
        loop.call_later(1000, seen.append, i).cancel()
    loop.call_later(0.01, seen.append, "last")
    run(loop, lambda: seen)
    assert seen == ["last"]
    assert len(loop._timers) < 3000


def test_a_timer_that_keeps_asking_for_another_does_not_starve_the_sockets():
    loop, read = TightLoop(), []
    ours, theirs = socket.socketpair()

    def again():
        loop.call_at(0, again)

    with ours, theirs:
        again()
        loop.add_reader(ours, lambda: read.append(ours.recv(10)))
        theirs.send(b"x")
        run(loop, lambda: read)
        loop.remove_reader(ours)
    assert read == [b"x"]


def test_reader_and_writer_of_one_socket_come_and_go_apart():
    loop, seen = TightLoop(), []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop.add_reader(ours, lambda: seen.append(ours.recv(10)))
        loop.add_writer(ours, lambda: (seen.append("room"), loop.remove_writer(ours)))
        run(loop, lambda: "room" in seen)
        theirs.send(b"x")
        run(loop, lambda: b"x" in seen)
        loop.remove_reader(ours)
        theirs.send(b"y")
        loop.turn(0.001)
    assert seen == ["room", b"x"]


@pytest.mark.parametrize("rest_s", [0.0, 0.05])
def test_rest_ends_with_the_next_timer(rest_s):
    loop, seen = TightLoop(), []
    loop.call_later(0.005, lambda: seen.append(monotonic_ns()))
    start = monotonic_ns()
    while not seen:
        loop.turn(rest_s)
    assert (seen[0] - start) * 1e-9 >= 0.005
