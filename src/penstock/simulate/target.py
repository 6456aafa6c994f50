"""A simulated fleet as a target of the meter: every workload, search and report works on it."""

from __future__ import annotations

import asyncio
from time import monotonic

from penstock import __version__
from penstock.meter.driver import Drive
from penstock.meter.target import Reply, TargetInfo
from penstock.record.record import Record
from penstock.record.series import Series
from penstock.simulate.books import nanoseconds, row_of
from penstock.simulate.fleet import Fleet
from penstock.simulate.player import Entry, answer_of
from penstock.simulate.result import record_of
from penstock.simulate.run import World
from penstock.workload.plan import Ask

_TURN_S = 0.05  # of real time, after which others in this process get theirs
_BETWEEN_NS = 1_000_000_000  # of virtual time, between two operating points


class SimTarget:
    """A fleet that begins each operating point anew, with empty caches.

    Raises `ValueError` for a fleet of which step times, KV or links cannot be found.
    """

    def __init__(self, fleet: Fleet, seed: int = 0) -> None:
        self.fleet = fleet
        self.seed = seed
        self.series: list[Series] = []
        self._base_ns = _BETWEEN_NS
        self._world = World(fleet, seed)
        self.info = TargetInfo(
            kind="sim",
            name=f"sim:{fleet.name}",
            model=fleet.model,
            context=fleet.context,
            forces_length=True,
            reads_sketches=True,
            conditions={
                "model": fleet.model,
                "precision": fleet.told("weights"),
                "kv_precision": fleet.told("kv"),
                "hardware": fleet.hardware,
                "target": f"simulated fleet {fleet.name}",
                "target_version": __version__,
                "endpoint": "none",
                "sampling": "none: lengths are as asked",
                "arrival_stamps": "virtual",
                "output_length": "forced",
            },
        )

    def now_ns(self) -> int:
        """See `PlayingTarget`."""
        return self._base_ns + nanoseconds(self._world.clock.now)

    def sender(self, drive: Drive) -> Playing:
        """See `PlayingTarget`."""
        return Playing(self, drive)

    def begin(self) -> World:
        """A new fleet, later than the one before."""
        self._base_ns = self.now_ns() + _BETWEEN_NS
        self._world = World(self.fleet, self.seed, keeps_ends=True)
        return self._world

    def end(self) -> None:
        """Keep what was watched."""
        new = self._world.watch.series(self._base_ns)
        if not self.series:
            self.series += new
        else:
            for series, more in zip(self.series, new, strict=True):
                last = series.values[-1] if series.kind == "counter" else 0.0
                series.at_ns += more.at_ns
                series.values += [last + value for value in more.values]

    async def send(self, ask: Ask, record: Record) -> Reply:
        """See `Target`; never called, since the plan is played whole."""
        raise NotImplementedError("a simulated fleet plays plans, not single asks")

    async def count_prompt(self, text: str) -> int | None:
        """See `Target`."""
        return None

    async def close(self) -> None:
        """See `Target`."""


class Playing:
    """Sends a drive's plan in virtual time, and keeps the drive's books; see `Sender`."""

    lead_ns = 0

    def __init__(self, target: SimTarget, drive: Drive) -> None:
        self._target = target
        self._drive = drive
        self._world: World | None = None
        self._cut = False

    @property
    def stopped(self) -> bool:
        """See `Ledger`."""
        return self._drive.stop_ns is not None

    async def open(self) -> None:
        """See `Sender`."""
        self._world = self._target.begin()

    async def run(self) -> None:
        """See `Sender`."""
        world, limits = self._world, self._drive.limits
        assert world is not None
        player = world.player(self._drive.plan, self)
        world.clock.at(limits.duration_s, self._drive.time_is_up)
        world.clock.at(limits.duration_s + limits.drain_s, self._cut_off)
        player.start()
        try:
            rest_at = monotonic() + _TURN_S
            while not self._cut and (player.under_way or not self.stopped) and world.clock.turn():
                if monotonic() > rest_at:
                    await asyncio.sleep(0)
                    rest_at = monotonic() + _TURN_S
        finally:
            for entry in player.under_way:
                assert isinstance(entry.record, Record)
                self._drive.cut(entry.record)

    def _cut_off(self) -> None:
        self._cut = True

    def stop(self) -> None:
        """See `Sender` and `Ledger`: send no more."""
        if not self.stopped:
            self._drive.stop()
        elif self._world is not None:
            self._world.settle()

    async def close(self) -> None:
        """See `Sender`."""
        self._target.end()

    def begin(self, entry: Entry) -> None:
        """See `Ledger`."""
        sched_ns = self._drive.start_ns + nanoseconds(entry.at)
        record = self._drive.begin(entry.ask, sched_ns)
        record.sent_ns = sched_ns
        entry.record = record

    def end(self, entry: Entry) -> None:
        """See `Ledger`."""
        base_ns = self._drive.start_ns
        made = [
            record_of(row_of(entry, choice), base_ns, call.spans or ())
            for choice, call in enumerate(entry.calls)
        ]
        record = entry.record
        assert isinstance(record, Record)
        for name in Record.__struct_fields__:
            setattr(record, name, getattr(made[0], name))
        record.prompt_tokens_asked = entry.ask.prompt_tokens
        self._drive.end(record, Reply(answer=answer_of(entry), further=made[1:]))
