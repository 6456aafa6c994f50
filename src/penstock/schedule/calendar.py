"""When each decoding sequence next needs attention, counted in decode steps."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from penstock.schedule.sequence import Sequence


class Calendar:
    """At most one event for each sequence, found in the order of their ticks.

    A sequence's `event` is its valid entry. A cancelled or replaced entry stays
    in the heap until its tick comes, and is passed over then.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, int], Sequence]] = []
        self._noted = 0

    def note(self, sequence: Sequence, tick: int) -> None:
        """Set the sequence's event, replacing one it has."""
        self._noted += 1  # no two entries compare equal, so sequences are never compared
        sequence.event = (tick, self._noted)
        heappush(self._heap, (sequence.event, sequence))

    def cancel(self, sequence: Sequence) -> None:
        """The sequence has no event any more."""
        sequence.event = None

    def next_tick(self) -> int:
        """Tick of the next event; there must be one."""
        while self._heap[0][0] is not self._heap[0][1].event:
            heappop(self._heap)
        return self._heap[0][0][0]

    def turn(self, tick: int) -> Iterator[Sequence]:
        """Take out and yield the sequences whose events have come by `tick`."""
        while self._heap and self._heap[0][0][0] <= tick:
            entry, sequence = heappop(self._heap)
            if entry is sequence.event:
                sequence.event = None
                yield sequence
