"""The queue of those who wait for a seat and for pages."""

from __future__ import annotations

from heapq import heappop, heappush

from penstock.schedule.errors import QueueFull, RequestRefused
from penstock.schedule.policy import Policy
from penstock.schedule.sequence import Sequence, State


class Waiting:
    """Waiting sequences, preempted ones included, by priority, then by arrival.

    One that ends is let go of in place: `forget` counts it out, its entry goes when it
    comes to the head.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._heap: list[tuple[tuple[int, int], Sequence]] = []
        self._count = 0
        self.tokens = 0  # that they have to compute

    def __len__(self) -> int:
        return self._count

    @property
    def head(self) -> Sequence:
        """Who is next; there must be one."""
        while self._heap[0][1].state is not State.WAITING:
            heappop(self._heap)
        return self._heap[0][1]

    def add(self, sequence: Sequence) -> None:
        """Queue it, in its place."""
        sequence.state = State.WAITING
        heappush(self._heap, (sequence.order, sequence))
        self._count += 1
        self.tokens += sequence.target

    def pop(self) -> Sequence:
        """Take the head."""
        sequence = self.head
        heappop(self._heap)
        self.forget(sequence)
        return sequence

    def forget(self, sequence: Sequence) -> None:
        """It waits no more."""
        self._count -= 1
        self.tokens -= sequence.target

    def check_room(self, count: int, tokens: int) -> None:
        """Raise what keeps so many sequences, with so many prompt tokens, from being queued.

        `RequestRefused` if that is for ever, `QueueFull` if it is for now.
        """
        policy = self._policy
        if count > max(1, policy.max_waiting):
            raise RequestRefused(
                f"{count} sequences are queued together or not at all; this server's queue takes "
                f"{policy.max_waiting} (max_waiting). Ask for fewer at once.",
                field="n",
            )
        if self._count + count > policy.max_waiting:
            raise QueueFull(
                f"{self._count} requests wait already, the limit is "
                f"{policy.max_waiting} (max_waiting).",
                retry_after_s=1.0,
            )
        if self._count and self.tokens + tokens > policy.max_waiting_tokens:
            raise QueueFull(
                f"{self.tokens:,} prompt tokens wait already; {tokens:,} more "
                f"exceed the limit of {policy.max_waiting_tokens:,} (max_waiting_tokens).",
                retry_after_s=1.0,
            )
