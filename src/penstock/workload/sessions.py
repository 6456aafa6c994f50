"""Conversations: every turn carries the conversation so far, with the real answers in it.

`sessions:5,10` are five turns with ten seconds of thought on average;
`sessions:2-8,10` are two to eight. The same object serves sessions of a trace.
"""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.workload.plan import Answer, Ask, End
from penstock.workload.shapes import Maker, Want, from_one
from penstock.workload.traces import Trace

Message = dict[str, Any]


class Sessions(msgspec.Struct, frozen=True):
    """Sessions of `low` to `high` turns; thinking takes `think_s` on average, exponentially.

    A turn's own text is as long as the first one's. A session ends early where
    its next turn would not fit the model's context.
    """

    low: int
    high: int
    think_s: float

    shared_tokens = 0

    def __post_init__(self) -> None:
        from_one(turns=self.low)
        if self.low > self.high:
            raise ValueError(f"turns run backwards; write {self.high}-{self.low}")

    @property
    def description(self) -> str:
        """See `Shape`."""
        turns = f"{self.low}" if self.low == self.high else f"{self.low} to {self.high}"
        return (
            f"sessions of {turns} turns, each with the conversation so far, "
            f"{self.think_s:g} s of thought on average (exponential)"
        )

    def ask(self, make: Maker, want: Want) -> Ask:
        """See `Shape`."""
        rng = make.rng(want.index)
        turns = int(rng.integers(self.low, self.high, endpoint=True))
        think_s = rng.exponential(self.think_s, turns).tolist()
        # All made now, ahead of the load: between two turns there is no time to cut text.
        texts = [
            make.join([(f"session {want.index} {turn}", want.prompt_tokens)])
            for turn in range(turns)
        ]
        return Talk(make, want, texts, think_s).first()


class Talk:
    """One session under way: what was said, and what is to be said."""

    def __init__(self, make: Maker, want: Want, texts: list[str], think_s: list[float]) -> None:
        self._make = make
        self._want = want
        self._texts = texts
        self._think_s = think_s
        self._said: list[Message] = []
        self._tokens: int | None = 0
        self._turn = 0

    def first(self) -> Ask:
        """The turn that opens the session."""
        return self._ask()

    def follow(self, answer: Answer) -> Ask | End:
        """The next turn, after the answer to the last."""
        if answer.error is not None:
            return End.BROKEN
        self._said.append({"role": "assistant", "content": answer.texts[0]})
        self._tokens = add(self._tokens, answer.output_tokens)
        self._turn += 1
        if self._turn == len(self._texts):
            return End.COMPLETED
        needed = add(self._tokens, self._want.prompt_tokens + self._want.output_tokens)
        if too_long(needed, self._make.context):
            return End.GIVEN_UP
        return self._ask()

    def _ask(self) -> Ask:
        self._said.append({"role": "user", "content": self._texts[self._turn]})
        self._tokens = add(self._tokens, self._want.prompt_tokens)
        return Ask(
            id=f"{self._want.index}.{self._turn}",
            content=list(self._said),
            prompt_tokens=self._tokens,
            output_tokens=self._want.output_tokens,
            at_s=None if self._turn else self._want.at_s,
            n=self._make.n,
            session=str(self._want.index),
            turn=self._turn,
            think_s=self._think_s[self._turn] if self._turn else 0.0,
            follow=self.follow,
        )


class Recorded(msgspec.Struct, frozen=True):
    """Sessions of a trace: lengths, sharing and thought as recorded, answers made up.

    The prompts share what the trace says they shared, not what the server
    answered: it cannot be made to repeat what another model once said.
    """

    trace: Trace
    speed: float = 1.0  # thought takes so many times less

    shared_tokens = 0

    @property
    def description(self) -> str:
        """See `Shape`."""
        return f"sessions of a trace ({self.trace.format}), prefixes shared as recorded"

    def ask(self, make: Maker, want: Want) -> Ask:
        """See `Shape`. The want's index counts sessions; its lengths are not heeded."""
        sessions = self.trace.sessions or []
        return self._turn(make, want, sessions[want.index % len(sessions)].tolist(), 0)

    def _turn(self, make: Maker, want: Want, rows: list[int], turn: int) -> Ask:
        trace, row = self.trace, rows[turn]
        copy = want.index // len(trace.sessions or [])

        def follow(answer: Answer) -> Ask | End:
            if answer.error is not None:
                return End.BROKEN
            if turn + 1 == len(rows):
                return End.COMPLETED
            return self._turn(make, want, rows, turn + 1)

        tokens = int(trace.prompt_tokens[row])
        return Ask(
            id=f"{want.index}.{turn}",
            content=make.join(trace.pieces(row, tokens, copy)),
            prompt_tokens=tokens,
            output_tokens=int(trace.output_tokens[row]),
            at_s=None if turn else want.at_s,
            n=make.n,
            session=str(want.index),
            turn=turn,
            think_s=trace.think_s[row] / self.speed if turn else 0.0,
            follow=follow,
        )


def add(tokens: int | None, more: int | None) -> int | None:
    """A sum that is unknown where a part of it is."""
    return None if tokens is None or more is None else tokens + more


def too_long(tokens: int | None, context: int | None) -> bool:
    """Whether so many tokens are known not to fit."""
    return tokens is not None and context is not None and tokens > context
