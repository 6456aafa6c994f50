"""Sends a plan from this process: for targets that are in it, too."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from time import monotonic_ns
from typing import TYPE_CHECKING

from penstock.record.record import Record
from penstock.workload.plan import Ask

if TYPE_CHECKING:
    from penstock.meter.driver import Drive


class Inside:
    """A task for each slot of a closed loop, or for each request of an open one."""

    lead_ns = 0

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._to_come = 0  # of an open loop: asks, and sessions that may go on

    async def open(self) -> None:
        """See `Sender`."""
        # The garbage collector stops everything for milliseconds: none of it in the load.
        gc.collect()
        gc.freeze()
        gc.disable()

    async def close(self) -> None:
        """See `Sender`."""
        gc.enable()
        gc.unfreeze()

    def stop(self) -> None:
        """See `Sender`: every task looks at the drive before it sends."""

    async def run(self) -> None:
        """See `Sender`."""
        if self._drive.plan.load.kind == "closed":
            await self._closed()
        else:
            await self._open()

    async def _closed(self) -> None:
        asks = iter(self._drive.plan.asks)
        async with asyncio.TaskGroup() as slots:
            for _ in range(self._drive.plan.load.concurrency or 1):
                slots.create_task(self._slot(asks))

    async def _slot(self, asks: Iterator[Ask]) -> None:
        drive = self._drive
        wanted_ns = drive.start_ns
        for ask in asks:
            if drive.stop_ns is not None:
                return
            record = await self._session(ask, wanted_ns)
            wanted_ns = (record.end_ns or monotonic_ns()) + int(drive.plan.think_s * 1e9)
            await self._until(wanted_ns)
        drive.stop()

    async def _open(self) -> None:
        # The schedule is absolute: a late send does not move those after it.
        drive = self._drive
        self._to_come = len(drive.plan.asks)
        async with asyncio.TaskGroup() as sends:
            for ask in drive.plan.asks:
                wanted_ns = drive.start_ns + int((ask.at_s or 0.0) * 1e9)
                await self._until(wanted_ns)
                if drive.stop_ns is not None:
                    return
                task = sends.create_task(self._session(ask, wanted_ns))
                if ask.follow is None:
                    self._one_less()
                else:
                    task.add_done_callback(self._one_less)

    def _one_less(self, _: object = None) -> None:
        self._to_come -= 1
        if not self._to_come:
            self._drive.stop()

    async def _until(self, when_ns: int) -> None:
        """Sleep until then, or until the load stops."""
        while (left_ns := when_ns - monotonic_ns()) > 0 and self._drive.stop_ns is None:
            await asyncio.sleep(min(left_ns * 1e-9, 0.1))

    async def _session(self, ask: Ask, wanted_ns: int) -> Record:
        """Send the ask and all that follow from its answers; the record of the last."""
        drive = self._drive
        while True:
            record = drive.begin(ask, wanted_ns)
            try:
                reply = await drive.target.send(ask, record)
            except asyncio.CancelledError:
                drive.cut(record)
                raise
            drive.end(record, reply)
            if ask.follow is None:
                return record
            follower = ask.follow(reply.answer)
            if not isinstance(follower, Ask):
                record.session_end = follower.value
                return record
            ask = follower
            wanted_ns = (record.end_ns or monotonic_ns()) + int(ask.think_s * 1e9)
            await self._until(wanted_ns)
            if drive.stop_ns is not None:
                return record
