"""The plan: what is asked, and when, decided before the first byte is sent.

A plan is one seeded stream. However many workers send it, it is made first
and then dealt out (`deal`), so that their shares together are the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import overload

import msgspec

from penstock.record.run import Condition, Load
from penstock.workload.prompts import Content


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back for an ask: one text a sample, or why there is none."""

    texts: tuple[str, ...] = ()
    output_tokens: int | None = None  # as counted, over all samples
    error: str | None = None  # as in the record; None if the request finished


class End(StrEnum):
    """How a session or an agent's task ended."""

    COMPLETED = "completed"
    GIVEN_UP = "given_up"  # wrong to the last try, or out of context
    BROKEN = "broken"  # a request failed


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer is drawn; its length is then the model's, up to the limit asked."""

    temperature: float
    seed: int | None = None
    stop: tuple[str, ...] = ()


class Ask(msgspec.Struct, kw_only=True):
    """One request: its prompt, how many tokens to answer, and when it is wanted.

    `at_s` counts from the start of the load; in a closed loop it is None: there
    a request is wanted when its slot becomes free.

    An ask with `follow` opens or continues a session. When its request is over,
    however it ended, `follow(answer)` gives the next ask, wanted `think_s`
    after the end of that answer, or says how the session ended. It is called
    once, is quick, and belongs to the process that sent the ask. A slot of a
    closed loop keeps its session to the end.

    Without `sampling` the answer is greedy and as long as asked, where the
    target can be made to. `task` names what the answer is graded by.
    """

    id: str
    content: Content
    prompt_tokens: int | None  # None where nobody can say beforehand
    output_tokens: int
    at_s: float | None = None
    n: int = 1  # samples of one prompt
    sampling: Sampling | None = None
    task: str | None = None
    sample: int = 0  # which of the task's
    session: str | None = None
    turn: int = 0
    think_s: float = 0.0  # of a follower: seconds after the end of the answer before it
    follow: Callable[[Answer], Ask | End] | None = None


class Asks(Sequence[Ask]):
    """Asks that are made when looked at, so that a plan of a million costs little.

    The same index gives an equal ask each time. Making one may take a
    millisecond (its prompt is cut to the token): do it before its time comes.
    """

    def __init__(self, make: Callable[[int], Ask], indices: Sequence[int]) -> None:
        self._make = make
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, which: int) -> Ask: ...
    @overload
    def __getitem__(self, which: slice) -> Asks: ...
    def __getitem__(self, which: int | slice) -> Ask | Asks:
        if isinstance(which, slice):
            return Asks(self._make, self._indices[which])
        return self._make(self._indices[which])


class Plan(msgspec.Struct, kw_only=True):
    """The asks of one operating point, in the order in which they are wanted.

    The first `warmup` of them are the warm-up. `think_s` is the pause of a
    closed loop between an answer and the slot's next request. With
    `shares_prefixes` prompts begin alike by design, so that cache hits are wanted.
    """

    load: Load
    asks: Sequence[Ask]
    warmup: int
    think_s: float = 0.0
    shares_prefixes: bool = False
    conditions: dict[str, Condition] = {}
    notes: list[str] = []


def deal(plan: Plan, workers: int) -> list[Plan]:
    """Deal a plan out: each ask to one worker, nothing made, moved or drawn anew.

    An open loop is dealt like cards. A closed loop's slots are dealt so, each
    with the asks of its turn, hence never to more workers than slots. The
    shares' asks, merged by time, are the plan's, and so are their warm-ups.
    Raises `ValueError` for less than one worker.
    """
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, not {workers}")
    slots = plan.load.concurrency
    if slots is None:
        return [
            _share(plan, plan.load, range(worker, len(plan.asks), workers))
            for worker in range(min(workers, max(1, len(plan.asks))))
        ]
    workers = min(workers, slots)
    return [
        _share(
            plan,
            msgspec.structs.replace(plan.load, concurrency=len(range(worker, slots, workers))),
            [i for i in range(len(plan.asks)) if i % slots % workers == worker],
        )
        for worker in range(workers)
    ]


def _share(plan: Plan, load: Load, indices: Sequence[int]) -> Plan:
    return msgspec.structs.replace(
        plan,
        load=load,
        asks=Asks(plan.asks.__getitem__, indices),
        warmup=sum(index < plan.warmup for index in indices),
    )
