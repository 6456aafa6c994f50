"""A worker's line to its driver: orders come in, news goes out, never waiting for either.

News that nobody waits for is held back until there is a hurry, since the driver,
once woken, takes time from the machine that carries the load.
"""

from __future__ import annotations

import socket

from penstock.meter.loop import TightLoop
from penstock.meter.message import Frames, News, Order, frame, read_order


class DriverLine:
    """Over `sock`, until the driver closes it. What was told goes out all at once."""

    def __init__(self, loop: TightLoop, sock: socket.socket) -> None:
        self.listening = True
        self._loop = loop
        self._socket = sock
        self._frames = Frames()
        self._orders: list[Order] = []
        self._untold = bytearray()
        self._in_a_hurry = False
        sock.setblocking(False)
        loop.add_reader(sock, self._read)

    def orders(self) -> list[Order]:
        """What came since it was asked last."""
        orders, self._orders = self._orders, []
        return orders

    def tell(self, news: News) -> None:
        """Have it sent at the next hurry."""
        self._untold += frame(news)

    def tell_now(self, news: News) -> None:
        """Have it sent at the end of the turn."""
        self.tell(news)
        self.hurry()

    def hurry(self) -> None:
        """Have all that was told sent at the end of the turn."""
        self._in_a_hurry = True

    def flush(self) -> None:
        """The end of a turn: send as much as there is room for, if there is a hurry."""
        if not (self._in_a_hurry and self._untold and self.listening):
            return
        self._in_a_hurry = False
        try:
            sent = self._socket.send(self._untold)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.listening = False
            return
        del self._untold[:sent]
        if self._untold:
            self._loop.add_writer(self._socket, self._room)

    def _room(self) -> None:
        self._loop.remove_writer(self._socket)
        self.hurry()

    def _read(self) -> None:
        try:
            data = self._socket.recv(2**20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.listening = bool(data)
        self._orders += map(read_order, self._frames.feed(data))
