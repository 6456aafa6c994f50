"""Sockets read together in C: nothing is lost, moved or told twice, and stamps are true."""

import itertools
import socket
import struct
import time

import pytest

from penstock.meter.arrivals import _A_TURN, Arrivals
from penstock.meter.link import _SO_TIMESTAMPNS
from penstock.meter.loop import TightLoop

MIDDLE = b"e\r\ndata: {...}\n\n\r\n"  # as an event comes within a chunked body


@pytest.fixture
def loop():
    return TightLoop()


@pytest.fixture
def arrivals(loop):
    made = Arrivals.of(loop)
    if made is None:
        pytest.skip("needs Linux and a C compiler")
    return made


@pytest.fixture
def connect():
    opened = []

    def pair():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            ours = socket.create_connection(listening.getsockname())
            theirs, _ = listening.accept()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.extend((ours, theirs))
        return ours, theirs

    yield pair
    for each in opened:
        each.close()


class Told:
    """What one socket's owner heard."""

    def __init__(self):
        self.pieces, self.lost = [], []

    def received(self, data, at_ns, read_ns):
        self.pieces.append((data, at_ns, read_ns))

    @property
    def data(self):
        return b"".join(data for data, _, _ in self.pieces)


def watch(arrivals, sock):
    told = Told()
    return told, arrivals.add(sock, told.received, told.lost.append)


def turn(loop, times=3):
    loop.call_later(0.02 * times, lambda: None)  # so that it does not wait for ever
    for _ in range(times):
        time.sleep(0.01)
        loop.turn(0.0001)


def test_what_comes_is_told_with_the_time_it_came(loop, arrivals, connect):
    ours, theirs = connect()
    told, _ = watch(arrivals, ours)
    before = time.monotonic_ns()
    theirs.send(b"HTTP/1.1 200 OK\r\n")
    sent = time.monotonic_ns()
    time.sleep(0.05)
    turn(loop)
    ((data, at_ns, read_ns),) = told.pieces
    assert data == b"HTTP/1.1 200 OK\r\n"
    assert before - 1_000_000 < at_ns < sent + 1_000_000 < read_ns


def test_the_middle_of_an_answer_waits_for_company(loop, arrivals, connect):
    ours, theirs = connect()
    told, stream = watch(arrivals, ours)
    stream.keep(True)
    for count in range(1, 4):
        theirs.send(MIDDLE)
        turn(loop)
        assert not told.pieces, count
    theirs.send(MIDDLE)
    turn(loop)
    assert [data for data, _, _ in told.pieces] == [MIDDLE] * 4
    stamps = [at_ns for _, at_ns, _ in told.pieces]
    assert all(b - a > 5_000_000 for a, b in itertools.pairwise(stamps))


@pytest.mark.parametrize(
    "piece", [b"0\r\n\r\n", MIDDLE[:5], b"13\r\ndata: [DONE]\n\ndata\n\n\r\n", b"\n"]
)
def test_what_is_not_the_middle_brings_what_waited(loop, arrivals, connect, piece):
    ours, theirs = connect()
    told, stream = watch(arrivals, ours)
    stream.keep(True)
    theirs.send(MIDDLE)
    turn(loop)
    theirs.send(piece)
    turn(loop)
    assert [data for data, _, _ in told.pieces] == [MIDDLE, piece]


def test_nothing_waits_unless_told_so(loop, arrivals, connect):
    ours, theirs = connect()
    told, stream = watch(arrivals, ours)
    theirs.send(MIDDLE)
    turn(loop)
    assert told.data == MIDDLE
    stream.keep(True)
    theirs.send(MIDDLE)
    turn(loop)
    stream.take()
    assert told.data == 2 * MIDDLE


def test_more_than_there_is_room_for_comes_whole(loop, arrivals, connect):
    ours, theirs = connect()
    told, stream = watch(arrivals, ours)
    stream.keep(True)
    sent = b"".join(b"%06d" % i for i in range(40_000))
    theirs.setblocking(False)
    left = memoryview(sent)
    while left:
        try:
            left = left[theirs.send(left) :]
        except BlockingIOError:
            turn(loop, 1)
    turn(loop)
    stream.take()
    assert told.data == sent


def test_the_end_comes_after_what_came_before_it(loop, arrivals, connect):
    ours, theirs = connect()
    told, stream = watch(arrivals, ours)
    stream.keep(True)
    theirs.send(MIDDLE)
    theirs.close()
    turn(loop)
    assert told.data == MIDDLE
    assert told.lost == [None]


def test_a_reset_is_told_with_its_name(loop, arrivals, connect):
    ours, theirs = connect()
    told, _ = watch(arrivals, ours)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    turn(loop)
    (error,) = told.lost
    assert "reset by peer" in str(error)


def test_one_that_another_closes_hears_nothing_more(loop, arrivals, connect):
    (a, from_a), (b, from_b) = connect(), connect()
    told = Told()
    streams = []

    def close_the_other(data, at_ns, read_ns):
        for sock, stream in streams:
            if stream is not streams[len(told.pieces)][1]:
                arrivals.remove(sock, stream)
        told.received(data, at_ns, read_ns)

    streams.append((a, arrivals.add(a, close_the_other, told.lost.append)))
    streams.append((b, arrivals.add(b, close_the_other, told.lost.append)))
    from_a.send(b"a")
    from_b.send(b"b")
    turn(loop)
    assert told.data == b"a"


def test_many_at_once_are_all_told(loop, arrivals, connect):
    pairs = [connect() for _ in range(3 * _A_TURN)]
    watched = [watch(arrivals, ours) for ours, _ in pairs]
    for number, (_, theirs) in enumerate(pairs):
        theirs.send(b"%d" % number)
    turn(loop, 8)
    assert [told.data for told, _ in watched] == [b"%d" % i for i in range(len(pairs))]
