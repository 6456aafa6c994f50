"""Virtual time: what is to happen, in order."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Event:
    """Something that will happen, unless cancelled."""

    __slots__ = ("act", "given")

    def __init__(self, act: Callable[..., None], given: tuple[Any, ...]) -> None:
        self.act: Callable[..., None] | None = act
        self.given = given

    def cancel(self) -> None:
        """Let it not happen."""
        self.act = None


class Clock:
    """Seconds since the start. Jumps from event to event; of one moment, in order of asking."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Event]] = []
        self._asked = 0

    def at(self, when: float, act: Callable[..., None], *given: Any) -> Event:
        """Do it then; a moment that is past means now."""
        self._asked += 1
        event = Event(act, given)
        heappush(self._heap, (when, self._asked, event))
        return event

    def turn(self) -> bool:
        """Let the next event happen; False when there is none."""
        while self._heap:
            when, _, event = heappop(self._heap)
            if event.act is not None:
                self.now = max(self.now, when)
                event.act(*event.given)
                return True
        return False

    def run(self) -> None:
        """Let everything happen."""
        while self.turn():
            pass
