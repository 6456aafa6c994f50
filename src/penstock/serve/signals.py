"""SIGTERM and SIGINT, from a process's first moment to its last, without a gap."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_on_signal() -> None:
    """End with status 0 at a signal: for as long as there is nothing to clean up."""
    _handle(lambda *_: os._exit(0))


class Stop:
    """Remembers that we were told to stop, and tells whoever has to know now.

    A handler of the event loop would come with it and go with it, and leave the
    moments before, after and between to the default: to die, and leave a child.
    """

    def __init__(self) -> None:
        self._asked = False
        self._act: Callable[[], object] | None = None
        _handle(self._hear)

    @contextlib.contextmanager
    def calling(self, act: Callable[[], object]) -> Iterator[None]:
        """Within, call `act` in the running event loop at each signal; at once if one came."""
        self._act = partial(asyncio.get_running_loop().call_soon_threadsafe, act)
        if self._asked:
            act()
        try:
            yield
        finally:
            self._act = None

    @staticmethod
    def ignore() -> None:
        """Ignore signals from now on: the process is ending."""
        _handle(signal.SIG_IGN)

    def _hear(self, *_: object) -> None:
        self._asked = True
        if self._act is not None:
            self._act()


def _handle(handler: Callable[..., object] | signal.Handlers) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)
