"""Sends a plan to a server from worker processes, and keeps the books of what they report.

The plan is one, made before; it is dealt out as it is needed, so that what is
sent and when does not depend on how many send it. Requests are written and
answers read here, away from the workers' clocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
from time import monotonic_ns
from typing import TYPE_CHECKING

import msgspec

from penstock.meter.client import Exchange
from penstock.meter.message import (
    Began,
    Cut,
    Deal,
    Ended,
    Follow,
    Frames,
    Free,
    Go,
    News,
    NoMore,
    Order,
    Ready,
    Setup,
    Spent,
    Stop,
    frame,
    read_news,
)
from penstock.meter.target import RemoteTarget
from penstock.record.record import Outcome, Record
from penstock.workload.plan import Ask, Plan, deal

if TYPE_CHECKING:
    from penstock.meter.driver import Drive

_AHEAD = 1024  # requests dealt to a worker before they are wanted, at least
_CUT_S = 10.0  # for a worker to hand over what is under way


class _Out(msgspec.Struct):
    """An ask that a worker has."""

    ask: Ask
    record: Record | None = None  # once it is under way


class _Worker:
    """One process and its share of the plan."""

    def __init__(self, place: str, share: Plan) -> None:
        self.place = place  # "2 of 4"
        self.closed = share.load.concurrency is not None
        self.share = iter(share.asks)
        self.outs: dict[int, _Out] = {}
        self.undealt = len(share.asks)
        self.ahead = max(_AHEAD, 2 * (share.load.concurrency or 0))
        self.waiting = 0  # dealt, and not yet begun
        self.spent = self.lost = False
        self.ready = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._socket, theirs = socket.socketpair()
        with theirs:
            # A session of its own: Ctrl-C is for the driver, which still wants the answers.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "penstock.meter.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    async def connect(self) -> None:
        """Open the line to it."""
        self.reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)

    @property
    def under_way(self) -> list[Record]:
        """Of the requests it has sent and not reported the end of."""
        return [out.record for out in self.outs.values() if out.record is not None]

    def order(self, *orders: Order) -> None:
        """Say something to it, if it is there."""
        if self._writer is not None and not self.lost:
            self._writer.write(b"".join(map(frame, orders)))

    async def dismiss(self) -> str:
        """Hang up and wait for its end; how it ended."""
        (self._writer or self._socket).close()
        try:
            code = await asyncio.to_thread(self.process.wait, _CUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = await asyncio.to_thread(self.process.wait)
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"


class Crew:
    """The worker processes of one drive."""

    lead_ns = 300_000_000  # an open loop connects for its first requests meanwhile

    def __init__(self, drive: Drive, target: RemoteTarget, workers: int) -> None:
        self._drive = drive
        self._target = target
        self._shares = deal(drive.plan, workers)
        self._workers: list[_Worker] = []
        self._numbers = itertools.count()
        self._over = asyncio.Event()
        self._hearing: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """See `Sender`."""
        think_ns = int(self._drive.plan.think_s * 1e9)
        for number, share in enumerate(self._shares, 1):
            worker = _Worker(f"{number} of {len(self._shares)}", share)
            self._workers.append(worker)
            await worker.connect()
            worker.order(Setup(self._target.origin, share.load.concurrency, think_ns))
            self._hearing.append(asyncio.create_task(self._hear(worker)))
        for worker in self._workers:
            self._deal(worker)
            await worker.ready.wait()

    async def run(self) -> None:
        """See `Sender`."""
        drive = self._drive
        try:
            self._order(Go(drive.start_ns, drive.start_ns + int(drive.limits.duration_s * 1e9)))
            await self._until_over()
        except asyncio.CancelledError:
            self._order(Cut())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CUT_S):
                    await self._until_over()
            for worker in self._workers:
                for record in worker.under_way:
                    drive.cut(record)
            raise

    def stop(self) -> None:
        """See `Sender`."""
        for worker in self._workers:
            worker.spent = False  # until it has confirmed
        self._order(Stop())

    async def close(self) -> None:
        """See `Sender`."""
        for task in self._hearing:
            task.cancel()
        await asyncio.gather(*(worker.dismiss() for worker in self._workers))

    def _order(self, order: Order) -> None:
        for worker in self._workers:
            worker.order(order)

    async def _until_over(self) -> None:
        await self._over.wait()
        for task in self._hearing:
            if task.done():
                task.result()  # a bug in reading or following an answer is not swallowed

    def _deal(self, worker: _Worker) -> None:
        """Keep the worker supplied for some time ahead."""
        while worker.undealt and worker.waiting < worker.ahead and self._drive.stop_ns is None:
            ask = next(worker.share)
            number = next(self._numbers)
            worker.outs[number] = _Out(ask)
            worker.undealt -= 1
            worker.waiting += 1
            at_ns = None if worker.closed else int((ask.at_s or 0.0) * 1e9)
            held = ask.follow is not None
            worker.order(Deal(number, self._target.request(ask), at_ns, held))
            if not worker.undealt:
                worker.order(NoMore())

    async def _hear(self, worker: _Worker) -> None:
        frames = Frames()
        try:
            while data := await worker.reader.read(2**20):
                for each in frames.feed(data):
                    self._take(worker, read_news(each))
                self._deal(worker)
                self._see_whether_over()
        except ConnectionError:
            pass  # like an end of the stream: it is gone
        except Exception:
            self._over.set()
            raise
        await self._lose(worker)

    def _take(self, worker: _Worker, news: News) -> None:
        match news:
            case Ready():
                self._drive.realtime, self._drive.together = news.realtime, news.together
                worker.ready.set()
            case Began():
                out = worker.outs[news.number]
                out.record = self._drive.begin(out.ask, news.sched_ns)
                worker.waiting -= 1
            case Ended():
                self._end(worker, worker.outs.pop(news.number), news.exchange)
            case Spent():
                self._spent(worker, news.at_ns)

    def _end(self, worker: _Worker, out: _Out, exchange: Exchange) -> None:
        drive, ask, record = self._drive, out.ask, out.record
        assert record is not None
        reply = self._target.read(ask, exchange, record)
        drive.lags_ns.append(exchange.lag_ns)
        if (exchange.error or "").startswith("cut"):
            drive.cut(record)
        else:
            drive.end(record, reply)
        if ask.follow is None:
            return
        follower = ask.follow(reply.answer)
        end_ns = record.end_ns or monotonic_ns()
        if not isinstance(follower, Ask):
            record.session_end = follower.value
            if worker.closed:  # an open loop has no slot, and would take this for its end
                worker.order(Free(end_ns))
        elif drive.stop_ns is None:
            number = next(self._numbers)
            worker.outs[number] = _Out(follower)
            worker.waiting += 1
            when_ns = end_ns + int(follower.think_s * 1e9)
            held = follower.follow is not None
            worker.order(Follow(number, self._target.request(follower), when_ns, held))

    def _spent(self, worker: _Worker, at_ns: int) -> None:
        drive = self._drive
        worker.spent = True
        if drive.stop_ns is not None:
            worker.outs = {k: out for k, out in worker.outs.items() if out.record is not None}
        elif worker.closed:
            # All that was planned is sent, though by then the load is less than it was.
            drive.thinned_ns = min(at_ns, drive.thinned_ns or at_ns)
            if all(other.spent for other in self._workers if not other.lost):
                drive.stop()

    def _see_whether_over(self) -> None:
        """An open loop stops when all is sent and no session can go on; then all must end."""
        live = [worker for worker in self._workers if not worker.lost]
        if not all(worker.spent for worker in live):
            return
        outs = [out for worker in live for out in worker.outs.values()]
        if self._drive.stop_ns is not None:
            if not outs:
                self._over.set()
        elif not any(out.record is None or out.ask.follow is not None for out in outs):
            self._drive.stop()

    async def _lose(self, worker: _Worker) -> None:
        """A worker is gone: what it had under way is lost, and the load is no longer the plan's."""
        drive = self._drive
        worker.lost = True
        how = await worker.dismiss()
        under_way, unsent = worker.under_way, worker.undealt + worker.waiting
        for record in under_way:
            record.outcome, record.error = Outcome.UNFINISHED, f"lost with its worker, which {how}"
        drive.missing.append(
            f"worker {worker.place} {how}: the answers to {len(under_way)} requests under way "
            f"are lost, {unsent} more were not sent"
        )
        drive.stop(f"the loss of worker {worker.place}")
        worker.ready.set()
        self._see_whether_over()
