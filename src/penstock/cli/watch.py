"""Runs a measurement to its end, or to Ctrl-C, and says meanwhile how it goes."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from penstock.meter.bench import Progress
    from penstock.meter.driver import Drive

T = TypeVar("T")


def watched(measure: Callable[[Progress], Awaitable[T]]) -> T:
    """What `measure` returns. Ctrl-C ends it early; before the first request, it is cancelled."""
    from penstock.meter.bench import Progress

    progress = Progress()

    async def main() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            if progress.drive is None:
                task.cancel()
            progress.interrupt()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
        watching = asyncio.create_task(_watch(progress))
        try:
            return await measure(progress)
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Make loops of uvloop where it is installed: less CPU for each event."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _watch(progress: Progress) -> None:
    """Say how it goes: a line that renews itself, or one every ten seconds in a log.

    Plain writes, because they happen beside the clock; a table would take
    milliseconds to draw.
    """
    live = sys.stderr.isatty()
    begin, end = ("\r\x1b[K", "") if live else ("", "\n")
    try:
        while True:
            await asyncio.sleep(0.5 if live else 10)
            if progress.drive is not None and not progress.drive.end_ns:
                print(
                    begin + _state(progress, progress.drive), end=end, file=sys.stderr, flush=True
                )
            elif progress.graded < progress.to_grade:
                state = f"graded {progress.graded:,} of {progress.to_grade:,} answers"
                print(begin + state, end=end, file=sys.stderr, flush=True)
    finally:
        print(begin, end="", file=sys.stderr, flush=True)


def _state(progress: Progress, drive: Drive) -> str:
    load = drive.plan.load
    offered = f"{load.concurrency} at once" if load.concurrency else f"{load.rate or 0:.3g} req/s"
    whole = f"/{progress.points}" if progress.points else ""
    doing = f"{progress.doing}, " if progress.doing else ""
    seconds = max((drive.now_ns() - drive.start_ns) * 1e-9, 1e-9)
    return (
        f"[{progress.point}{whole}] {doing}{offered}: {seconds:.0f} s, {drive.done} answered, "
        f"{drive.in_flight} under way, {drive.failed} failed, "
        f"{drive.output_tokens / seconds:,.0f} output tokens/s"
    )
