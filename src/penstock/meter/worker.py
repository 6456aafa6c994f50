"""A worker: the clock of its share of the load, in a process of its own.

It sends requests when they are wanted and keeps what comes back with its
stamps. It knows no prompt and reads no answer: whole requests come from the
driver over a socket, whole exchanges go back, so that nothing stands between
the clock and the network.

    python -m penstock.meter.worker DESCRIPTOR
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
import sys
from collections import deque
from itertools import takewhile
from time import monotonic_ns

from penstock.meter.arrivals import Arrivals
from penstock.meter.client import Call, Connections, Exchange
from penstock.meter.line import DriverLine
from penstock.meter.loop import TightLoop
from penstock.meter.message import (
    Began,
    Cut,
    Deal,
    Ended,
    Follow,
    Free,
    Go,
    NoMore,
    Order,
    Ready,
    Setup,
    Spent,
    Stop,
)

_AHEAD_NS = 250_000_000  # an open loop opens connections so long before they are needed
_LOOK_S = 0.05
_OPENING = 64  # connections at once: more may overflow a server's queue, and wait a second
_MANY = 50  # requests under way: from there on, waking for each event costs more than reading it
_REST_S = 0.001  # so it is waited for more; the kernel has stamped them
_OPEN_REST_S = 0.002  # longer where no slot waits for an answer's end
_TELL_S = 0.05  # a busy worker tells so seldom: waking the driver for each would double its work
_TOLD_AT_ONCE = 32  # answers, or one in 16 of those that wait: a thousand that end together
_TELL_ON_S = 0.03  # must not keep arrivals waiting, here or behind a driver at work
_READY_NS = 10**10  # then the load starts with what there is


class Worker:
    """Obeys the orders that come over `sock` until the driver closes it."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop = TightLoop()
        self._driver = DriverLine(self._loop, sock)
        self._arrivals = Arrivals.of(self._loop)
        self._queue: deque[Deal] = deque()
        self._calls: dict[int, Call] = {}
        self._ended: deque[Ended] = deque()  # and not told yet
        self._starved: deque[int] = deque()  # free slots, by when they wanted what was not there
        self._start_ns: int | None = None
        self._all_dealt = self._stopped = self._armed = self._telling = False

    def run(self) -> None:
        """Work until the driver hangs up."""
        while self._driver.listening:
            self._loop.turn(self._rest_s if self._busy else 0.0)
            for order in self._driver.orders():
                self._obey(order)
            self._driver.flush()

    @property
    def _busy(self) -> bool:
        return len(self._calls) > _MANY

    @property
    def _rest_s(self) -> float:
        return _OPEN_REST_S if self._setup.slots is None else _REST_S

    def _tell_soon(self) -> None:
        if not self._telling:
            self._telling = True
            self._loop.call_later(_TELL_S if self._busy else 0.0, self._tell)

    def _tell(self) -> None:
        """Tell what began and ended; a busy worker tells of many answers a few at a time."""
        ended = len(self._ended)
        most = max(_TOLD_AT_ONCE, ended // 16) if self._busy else ended
        for _ in range(min(ended, most)):
            self._driver.tell(self._ended.popleft())
        self._driver.hurry()
        self._telling = bool(self._ended)
        if self._telling:
            self._loop.call_later(_TELL_ON_S, self._tell)

    def _obey(self, order: Order) -> None:
        match order:
            case Setup():
                self._setup = order
                self._connections = Connections(self._loop, order.origin, self._arrivals)
                self._warm_up(monotonic_ns() + _READY_NS)
            case Deal():
                self._queue.append(order)
                self._serve()
            case NoMore():
                self._all_dealt = True
                self._serve()
            case Follow():
                self._loop.call_at(order.when_ns, self._follow, order)
            case Free():
                self._slot_is_free_at(order.since_ns)
            case Go():
                self._start_ns = order.start_ns
                self._loop.call_at(order.stop_ns, self._stop)
                self._start()
            case Stop():
                self._stop()
            case Cut():
                self._stop()
                for call in list(self._calls.values()):
                    call.cut()

    def _warm_up(self, until_ns: int) -> None:
        """Connect every slot before the load starts; an open loop connects as it goes."""
        connections = self._connections
        missing = (self._setup.slots or 0) - len(connections.idle) - connections.opening
        if not (missing or connections.opening) or connections.refused or monotonic_ns() > until_ns:
            self._driver.tell_now(Ready(_before_others(), self._arrivals is not None))
            return
        connections.open_ahead(min(missing, _OPENING - connections.opening))
        self._loop.call_later(0.001, self._warm_up, until_ns)

    def _start(self) -> None:
        assert self._start_ns is not None
        if self._setup.slots is None:
            self._look_ahead()
            self._serve()
        for _ in range(self._setup.slots or 0):
            self._slot_is_free_at(self._start_ns)

    def _stop(self) -> None:
        self._stopped = True
        self._queue.clear()
        self._driver.tell_now(Spent(monotonic_ns()))

    def _serve(self) -> None:
        """Send what is due, or what a slot waits for."""
        if self._start_ns is None or self._stopped:
            return
        if self._setup.slots is None:
            self._serve_schedule(self._start_ns)
        else:
            while self._starved and (self._queue or self._all_dealt):
                self._take_next(self._starved.popleft())

    # An open loop: the schedule is absolute, so a late send does not move those after it.

    def _serve_schedule(self, start_ns: int) -> None:
        while self._queue and (due_ns := start_ns + (self._queue[0].at_ns or 0)) <= monotonic_ns():
            deal = self._queue.popleft()
            self._send(deal, due_ns)
        if self._queue and not self._armed:
            self._armed = True
            self._loop.call_at(start_ns + (self._queue[0].at_ns or 0), self._wake)
        elif self._all_dealt and not self._queue:
            self._driver.tell_now(Spent(monotonic_ns()))

    def _wake(self) -> None:
        self._armed = False
        self._serve()

    def _look_ahead(self) -> None:
        """Open the connections that the near future needs."""
        if self._stopped or self._connections.refused:
            return
        assert self._start_ns is not None
        until_ns = monotonic_ns() + _AHEAD_NS - self._start_ns
        soon = sum(1 for _ in takewhile(lambda deal: (deal.at_ns or 0) <= until_ns, self._queue))
        connections = self._connections
        missing = soon - len(connections.idle) - connections.opening
        connections.open_ahead(max(0, min(missing, _OPENING - connections.opening)))
        self._loop.call_later(_LOOK_S, self._look_ahead)

    # A closed loop: a slot's next request is wanted when the slot is free.

    def _slot_is_free_at(self, when_ns: int) -> None:
        self._loop.call_at(when_ns, self._take_next, when_ns)

    def _take_next(self, wanted_ns: int) -> None:
        if self._stopped:
            return
        if self._queue:
            self._send(self._queue.popleft(), wanted_ns)
        elif self._all_dealt:
            self._stop()
        else:
            self._starved.append(wanted_ns)

    def _follow(self, order: Follow) -> None:
        if not self._stopped:
            self._send(order, order.when_ns)

    def _send(self, order: Deal | Follow, wanted_ns: int) -> None:
        number, held = order.number, order.held
        self._driver.tell(Began(number, wanted_ns))
        self._tell_soon()

        def over(exchange: Exchange) -> None:
            self._calls.pop(number, None)
            ended = Ended(number, exchange)
            if held:  # a session goes on when the driver has read the answer
                self._driver.tell_now(ended)
                return
            self._ended.append(ended)
            self._tell_soon()
            if self._setup.slots is not None:
                self._slot_is_free_at((exchange.end_ns or wanted_ns) + self._setup.think_ns)

        call = self._connections.call(order.request, Exchange(), over)
        if call.exchange.end_ns is None:
            self._calls[number] = call


def _before_others() -> bool:
    """Ask to run as soon as there is something to do; whether the kernel permits it.

    Bytes that wait to be read together share the stamp of the last of them.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except (AttributeError, OSError):  # not on every system, and not for everyone
        return False
    return True


def main() -> None:
    """Run as a process of the driver's, which gives the socket's descriptor."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a thousand streams need as many descriptors
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.disable()  # it would stop the clock for milliseconds; what there is has no cycles
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        Worker(sock).run()
    os._exit(0)  # there is nothing to save, and taking a thousand streams apart takes a while


if __name__ == "__main__":
    main()
