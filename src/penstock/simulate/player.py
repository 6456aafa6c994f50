"""Plays a plan in virtual time: arrivals, slots of a closed loop, sessions, samples.

The one place of the simulator that knows what a workload is. A benchmark
(`simulate.target`) and a simulation by itself (`simulate.run`) differ only in their ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from penstock.record.record import Outcome
from penstock.simulate.call import Call
from penstock.simulate.clock import Clock
from penstock.simulate.pages import PieceKeys
from penstock.workload.plan import Answer, Ask, Plan
from penstock.workload.sketch import pieces_of


class Entry:
    """One ask that was sent: its calls, one for each sample."""

    __slots__ = ("ask", "at", "calls", "number", "open", "record", "session_end")

    def __init__(self, ask: Ask, number: int, at: float) -> None:
        self.ask = ask
        self.number = number  # in the order of sending
        self.at = at  # when it was wanted, and sent
        self.calls: list[Call] = []
        self.open = ask.n
        self.session_end: str | None = None
        self.record: object = None  # the ledger's own


class Ledger(Protocol):
    """Writes down what happens, and may stop it."""

    @property
    def stopped(self) -> bool:
        """Nothing more is to be sent."""
        ...

    def begin(self, entry: Entry) -> None:
        """An ask is sent."""
        ...

    def end(self, entry: Entry) -> None:
        """All its calls have ended."""
        ...

    def stop(self) -> None:
        """There is nothing more to send."""
        ...


class Player:
    """Sends a plan's asks when they are wanted; see `Plan` and `Ask` for when that is."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        clock: Clock,
        send: Callable[[Call], None],
        *,
        page_tokens: int,
        background: Callable[[], bool],
    ) -> None:
        self._plan = plan
        self._ledger = ledger
        self._clock = clock
        self._send = send
        self._page_tokens = page_tokens
        self._background = background  # whether the next ask goes behind others
        self._asks: Iterator[Ask] = iter(plan.asks)
        self._closed = plan.load.kind == "closed"
        self._to_come = len(plan.asks)  # of an open loop: asks, and sessions that may go on
        self._sent = 0
        self._start = 0.0
        self.under_way: dict[Entry, None] = {}

    def start(self) -> None:
        """Begin now."""
        self._start = self._clock.now
        if not self._closed:
            self._expect()
        for _ in range(self._plan.load.concurrency or 1 if self._closed else 0):
            self._fill()

    def _expect(self) -> None:
        """Wait for an open loop's next ask."""
        ask = next(self._asks, None)
        if ask is not None:
            self._clock.at(self._start + (ask.at_s or 0.0), self._arrive, ask)

    def _arrive(self, ask: Ask) -> None:
        if self._ledger.stopped:
            return
        self._expect()
        if ask.follow is None:
            self._one_less()
        self._ask(ask)

    def _one_less(self) -> None:
        self._to_come -= 1
        if not self._to_come:
            self._ledger.stop()

    def _fill(self) -> None:
        """A slot of a closed loop is free."""
        if self._ledger.stopped:
            return
        ask = next(self._asks, None)
        if ask is None:
            self._ledger.stop()
        else:
            self._ask(ask)

    def _go_on(self, ask: Ask) -> None:
        """A session's next turn, unless the load has stopped meanwhile."""
        if not self._ledger.stopped:
            self._ask(ask)

    def _ask(self, ask: Ask) -> None:
        now = self._clock.now
        entry = Entry(ask, self._sent, now)
        self._sent += 1
        self.under_way[entry] = None
        # The pages of what shares nothing need no keys.
        shares = self._plan.shares_prefixes or ask.follow is not None
        pieces = pieces_of(ask.content) if shares or ask.prompt_tokens is None else None
        priority = int(self._background())
        prompt = ask.prompt_tokens or sum(tokens for _, tokens in pieces or ())
        for choice in range(ask.n):
            keys = None
            if shares and pieces is not None:
                answer = (_said(ask, choice), ask.output_tokens)
                keys = PieceKeys([*pieces, answer], self._page_tokens)
            entry.calls.append(
                Call(
                    prompt,
                    ask.output_tokens,
                    now,
                    self._ended,
                    keys=keys,
                    session=ask.session,
                    priority=priority,
                    owner=entry,
                )
            )
        self._ledger.begin(entry)
        for call in entry.calls:
            self._send(call)

    def _ended(self, call: Call) -> None:
        entry = call.owner
        assert isinstance(entry, Entry)
        entry.open -= 1
        if entry.open:
            return
        del self.under_way[entry]
        ask, follower = entry.ask, None
        if ask.follow is not None:
            follower = ask.follow(answer_of(entry))
            if not isinstance(follower, Ask):
                entry.session_end = follower.value
        self._ledger.end(entry)
        now = self._clock.now
        if isinstance(follower, Ask):
            self._clock.at(now + follower.think_s, self._go_on, follower)
        elif self._closed:
            self._clock.at(now + self._plan.think_s, self._fill)
        elif ask.follow is not None:
            self._one_less()


def _said(ask: Ask, choice: int) -> str:
    return f"answer {ask.id} {choice}"


def answer_of(entry: Entry) -> Answer:
    """The answer as the next turn takes it up: a sketch of what was said."""
    calls = entry.calls
    failed = (call for call in calls if call.outcome is not Outcome.FINISHED)
    error = next((call.error or str(call.outcome) for call in failed), None)
    return Answer(
        texts=tuple(
            f"{_said(entry.ask, choice)}\t{call.said}\n" for choice, call in enumerate(calls)
        ),
        output_tokens=sum(call.said for call in calls),
        error=error,
    )
