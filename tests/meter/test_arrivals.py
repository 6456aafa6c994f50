"""Sockets read together in C: nothing is lost, moved or told twice, and stamps are true."""

import itertools
import socket
import struct
import time

import pytest

from penstock.meter.arrivals import _A_TURN, Arrivals
from penstock.meter.link import _SO_TIMESTAMPNS
from penstock.meter.loop import TightLoop

BODY = b"data: {...}\n\n"
MIDDLE = b"d\r\n" + BODY + b"\r\n"  # as an event comes within a chunked body


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
        self.unframed, self.lags = [], []
        self.wire = b""  # all of it, frames put back

    def received(self, data, at_ns, read_ns):
        self.pieces.append((data, at_ns, read_ns))
        self.wire += data

    def bodies(self, bodies, lag_ns):
        self.unframed += bodies
        self.lags.append(lag_ns)
        self.wire += b"".join(b"%x\r\n%b\r\n" % (len(body), body) for _, body in bodies)

    @property
    def data(self):
        return b"".join(data for data, _, _ in self.pieces)


def watch(arrivals, sock):
    told = Told()
    return told, arrivals.add(sock, told, told.lost.append)


def turn(loop, times=3):
    loop.call_later(0.02 * times, lambda: None)  # so that it does not wait for ever
    for _ in range(times):
        time.sleep(0.01)
        loop.turn(0.0001)


def test_what_comes_is_told_with_the_time_it_came(loop, arrivals, connect):
    ours, theirs = connect()
    told, _ = watch(arrivals, ours)
    time.sleep(0.05)  # the first socket that asks for stamps gets them a little later
    before = time.monotonic_ns()
    theirs.send(b"HTTP/1.1 200 OK\r\n")
    sent = time.monotonic_ns()
    time.sleep(0.05)
    turn(loop)
    ((data, at_ns, read_ns),) = told.pieces
    assert data == b"HTTP/1.1 200 OK\r\n"
    assert before - 1_000_000 < at_ns < sent + 1_000_000 < read_ns


def test_the_middle_of_an_answer_waits_without_its_frames(loop, arrivals, connect):
    ours, theirs = connect()
    told, stream = watch(arrivals, ours)
    stream.between(True)
    for _ in range(4):
        theirs.send(MIDDLE)
        turn(loop)
    theirs.send(2 * MIDDLE)
    turn(loop)
    assert not told.unframed
    assert not stream.take()
    assert [body for _, body in told.unframed] == [BODY] * 6
    assert not told.pieces
    stamps = [at_ns for at_ns, _ in told.unframed]
    assert all(b - a > 5_000_000 for a, b in itertools.pairwise(stamps[:5]))
    assert stamps[4] == stamps[5]
    (lag_ns,) = told.lags
    assert 0 <= lag_ns < 50_000_000


@pytest.mark.parametrize(
    "piece",
    [
        b"0\r\n\r\n",
        MIDDLE[:5],
        b"13\r\ndata: [DONE]\n\ndata\n\n\r\n",
        b"\n",
        b"e" + MIDDLE[1:],  # a frame that tells another size
        b"d;x" + MIDDLE[1:],
        b"0000d" + MIDDLE[1:],
        b"\r\n" + MIDDLE,
        MIDDLE + MIDDLE[:5],
        MIDDLE[:-4] + b"\r\n\r\n",
        b"1\r\n\n\r\n",
    ],
)
def test_what_is_not_plainly_the_middle_comes_as_it_is(loop, arrivals, connect, piece):
    ours, theirs = connect()
    told, stream = watch(arrivals, ours)
    stream.between(True)
    theirs.send(MIDDLE)
    turn(loop)
    theirs.send(piece)
    turn(loop)
    assert [body for _, body in told.unframed] == [BODY]
    assert told.wire == MIDDLE + piece


def test_after_such_a_thing_all_comes_as_it_is_until_told(loop, arrivals, connect):
    ours, theirs = connect()
    told, stream = watch(arrivals, ours)
    theirs.send(MIDDLE)
    turn(loop)
    assert told.data == MIDDLE
    theirs.send(MIDDLE)
    turn(loop)
    assert told.data == 2 * MIDDLE
    stream.between(True)
    theirs.send(MIDDLE)
    turn(loop)
    assert told.data == 2 * MIDDLE


def test_pieces_beyond_the_places_are_not_lost(loop, arrivals, connect):
    ours, theirs = connect()
    told, stream = watch(arrivals, ours)
    stream.between(True)
    chunks = [b"5\r\n%03d\n\n\r\n" % i for i in range(900)]
    for number, chunk in enumerate(chunks):
        theirs.send(chunk)
        if number in (100, 500, 600):
            turn(loop)
    turn(loop)
    stream.take()
    assert told.wire == b"".join(chunks)
    assert len(told.unframed) > 100


def test_more_than_there_is_room_for_comes_whole(loop, arrivals, connect):
    ours, theirs = connect()
    told, stream = watch(arrivals, ours)
    stream.between(True)
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
    stream.between(True)
    theirs.send(MIDDLE)
    theirs.close()
    turn(loop)
    assert [body for _, body in told.unframed] == [BODY]
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
    streams = []

    class Closer(Told):
        def received(self, data, at_ns, read_ns):
            for sock, stream in streams:
                if stream is not streams[len(told.pieces)][1]:
                    arrivals.remove(sock, stream)
            super().received(data, at_ns, read_ns)

    told = Closer()
    streams.append((a, arrivals.add(a, told, told.lost.append)))
    streams.append((b, arrivals.add(b, told, told.lost.append)))
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


def test_whoever_has_something_is_read_before_a_turn_ends(arrivals, connect):
    streams = []
    for _ in range(300):  # more than the kernel tells of at once
        ours, theirs = connect()
        streams.append((ours, arrivals.add(ours, Told(), lambda error: None)))
        theirs.send(b"x")
    time.sleep(0.05)
    found = arrivals._library.penstock_arrivals(arrivals._epoll.fileno(), arrivals._found)
    assert found == len(streams)
    for ours, stream in streams:
        arrivals.remove(ours, stream)
