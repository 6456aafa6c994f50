"""The event loop under the load: sockets, timers, nothing else.

asyncio's loops wake for timers on whole milliseconds and spend more on an event
than reading it costs. `Loop` is what the client asks of a loop, so that it also
runs under asyncio; `TightLoop` is ours.
"""

from __future__ import annotations

import heapq
import itertools
import select
import selectors
import socket
from collections.abc import Callable
from time import monotonic_ns, sleep
from typing import Any, Protocol

_FOREVER_NS = 3600 * 10**9
_TIMERS_A_TURN = 16
_COARSE_NS = 2_000_000  # selectors round their timeouts up to milliseconds


class Timer(Protocol):
    """Something that will happen, unless cancelled."""

    def cancel(self) -> None:
        """Let it not happen."""
        ...


class Loop(Protocol):
    """The part of asyncio's loop that the client needs."""

    def add_reader(self, sock: socket.socket, act: Callable[[], None]) -> Any:  # noqa: D102
        ...

    def remove_reader(self, sock: socket.socket) -> Any:  # noqa: D102
        ...

    def add_writer(self, sock: socket.socket, act: Callable[[], None]) -> Any:  # noqa: D102
        ...

    def remove_writer(self, sock: socket.socket) -> Any:  # noqa: D102
        ...

    def call_later(self, seconds: float, act: Callable[..., None], *with_: Any) -> Timer:  # noqa: D102
        ...


class _Timer:
    __slots__ = ("act", "given")

    def __init__(self, act: Callable[..., None], given: tuple[Any, ...]) -> None:
        self.act: Callable[..., None] | None = act
        self.given = given

    def cancel(self) -> None:
        self.act, self.given = None, ()


Watched = socket.socket | select.epoll


class TightLoop:
    """A selector and a heap of timers, precise to some tens of microseconds."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        # What it watches, by descriptor: it would make an error's text of each that it does not.
        self._acts: dict[int, tuple[Any, Any]] = {}
        self._timers: list[tuple[int, int, _Timer]] = []  # by time, then in order of asking
        self._count = itertools.count()
        self._tidy_at = 1024

    def turn(self, rest_s: float = 0.0) -> None:
        """Wait until something happens, and do it.

        With `rest_s`, sleep so long instead (less if a timer is due before), then do
        all that has happened: cheaper where much happens.
        """
        for key, mask in self._ready(rest_s):
            read, write = key.data
            if mask & selectors.EVENT_READ and read is not None:
                read()
            if mask & selectors.EVENT_WRITE and write is not None:
                write()
        # A few: a thousand sends at once would keep arrivals waiting.
        for _ in range(_TIMERS_A_TURN):
            if not self._timers or self._timers[0][0] > monotonic_ns():
                break
            timer = heapq.heappop(self._timers)[2]
            if timer.act is not None:
                timer.act(*timer.given)

    def call_at(self, when_ns: int, act: Callable[..., None], *given: Any) -> Timer:
        """Do it at a time of `monotonic_ns`, or at once if that is past."""
        timer = _Timer(act, given)
        heapq.heappush(self._timers, (when_ns, next(self._count), timer))
        if len(self._timers) > self._tidy_at:  # most are timeouts that were cancelled
            self._timers = [entry for entry in self._timers if entry[2].act is not None]
            heapq.heapify(self._timers)
            self._tidy_at = 2 * len(self._timers) + 1024
        return timer

    def call_later(self, seconds: float, act: Callable[..., None], *given: Any) -> Timer:
        """Do it so many seconds from now."""
        return self.call_at(monotonic_ns() + int(seconds * 1e9), act, *given)

    def add_reader(self, sock: Watched, act: Callable[[], None]) -> None:
        """Do it whenever there is something to read."""
        self._watch(sock, act, self._watched(sock)[1])

    def add_writer(self, sock: Watched, act: Callable[[], None]) -> None:
        """Do it whenever there is room to write."""
        self._watch(sock, self._watched(sock)[0], act)

    def remove_reader(self, sock: Watched) -> None:
        """No longer."""
        self._watch(sock, None, self._watched(sock)[1])

    def remove_writer(self, sock: Watched) -> None:
        """No longer."""
        self._watch(sock, self._watched(sock)[0], None)

    def _ready(self, rest_s: float) -> list[tuple[selectors.SelectorKey, int]]:
        while self._timers and self._timers[0][2].act is None:
            heapq.heappop(self._timers)
        left_ns = self._timers[0][0] - monotonic_ns() if self._timers else _FOREVER_NS
        if rest_s:
            sleep(max(0.0, min(rest_s, left_ns * 1e-9)))
            return self._selector.select(0)
        if left_ns > _COARSE_NS:
            return self._selector.select((left_ns - _COARSE_NS / 2) * 1e-9)
        if left_ns > 0:
            select.select([self._selector], [], [], left_ns * 1e-9)
        return self._selector.select(0)

    def _watched(self, sock: Watched) -> tuple[Any, Any]:
        return self._acts.get(sock.fileno(), (None, None))

    def _watch(self, sock: Watched, read: Any, write: Any) -> None:
        mask = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        known = sock.fileno() in self._acts
        if mask:
            self._acts[sock.fileno()] = read, write
            watch = self._selector.modify if known else self._selector.register
            watch(sock, mask, (read, write))
        elif known:
            del self._acts[sock.fileno()]
            self._selector.unregister(sock)
