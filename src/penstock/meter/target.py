"""What a meter can measure: anything that takes an ask and fills in a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from penstock.meter.client import Exchange, Origin
from penstock.record.record import Record
from penstock.record.run import Condition
from penstock.record.series import Series
from penstock.workload.plan import Answer, Ask

if TYPE_CHECKING:
    from penstock.meter.driver import Drive, Sender


class TargetInfo(msgspec.Struct, kw_only=True):
    """What is known of a target before it is measured.

    `facts` are the engine's `ModelFacts` as a dict, where it tells them.
    `conditions` are those that belong to the target; "unknown" is an answer.
    """

    kind: str  # "http", "engine" or "sim"
    name: str  # as the user would write it
    model: str
    context: int | None = None  # tokens, prompt and output together
    local: bool = False  # runs on this machine, so its hardware can be measured
    chat: bool = False  # is asked as a chat
    forces_length: bool = False  # answers are as long as asked, not as long as the model likes
    reads_sketches: bool = False  # wants what prompts are made of instead of text
    facts: dict[str, Any] | None = None
    conditions: dict[str, Condition] = {}


class TargetError(Exception):
    """The target cannot be measured; the message says why and what to do."""


class Reply(msgspec.Struct):
    """What came of an ask, beside its record: caveats for the report, and the answer itself.

    `further` are the records of the second and later samples of one prompt.
    """

    caveats: list[str] = []
    answer: Answer = Answer()
    further: list[Record] = []


class Target(Protocol):
    """Something that generates text."""

    info: TargetInfo

    async def send(self, ask: Ask, record: Record) -> Reply:
        """Send the ask, wait for the end of the answer, fill in everything but `sched_ns`.

        Whatever goes wrong on the way ends in the record, not in an exception.
        When cancelled, fills in what had come and lets the cancellation through.
        """
        ...

    async def count_prompt(self, text: str) -> int | None:
        """How many tokens the target takes this prompt for; None if it does not tell."""
        ...

    async def close(self) -> None:
        """Let go of connections, threads, memory."""
        ...


@runtime_checkable
class RemoteTarget(Target, Protocol):
    """A server. Writing its requests and reading its answers needs no connection.

    So both stay with the driver, while workers do nothing but send and stamp.
    """

    origin: Origin

    def request(self, ask: Ask) -> bytes:
        """The whole HTTP request."""
        ...

    def read(self, ask: Ask, exchange: Exchange, record: Record) -> Reply:
        """Fill in the record from what came back."""
        ...


@runtime_checkable
class PlayingTarget(Target, Protocol):
    """A target that plays whole plans, by a clock of its own: a simulated fleet.

    Its sender heeds the drive's limits in that clock's time. `series` are what was
    watched, on the same clock.
    """

    series: list[Series]

    def now_ns(self) -> int:
        """The time of its clock; records and points hold no other."""
        ...

    def sender(self, drive: Drive) -> Sender:
        """Who sends the drive's plan."""
        ...
