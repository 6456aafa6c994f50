"""The engine process of now, and a new one when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from itertools import zip_longest
from types import TracebackType
from typing import Any, Self

import msgspec

from penstock.engine.request import EngineStats, GenerateRequest, ModelFacts
from penstock.serve.client import EngineClient, Generation

log = logging.getLogger(__name__)

Start = Callable[[], Awaitable[EngineClient]]

# An engine that lived so long was well: its death is the first of a new row.
WELL_AFTER_S = 60.0
_LONGEST_PAUSE_S = 30.0
_GAUGES = ("running", "waiting", "pages_total", "pages_free", "pages_held", "pages_cached")


class Supervisor:
    """One engine after the other. Use as `async with await Supervisor.start(...)`.

    What runs when an engine dies fails with `EngineDied`; so does what asks
    before the next one is up. `dead` says why there is none now, and `back_in_s`
    when to ask again. `facts` are those of the newest engine, dead or not.
    Counters in `stats` go on from one engine to the next; gauges are those of
    now, so all zero while there is none.
    """

    def __init__(
        self, start: Start, first: EngineClient, load_s: float, kill_stalled_after_s: float
    ) -> None:
        self.restarts = 0
        self._start = start
        self._client = first
        self._load_s = load_s
        self._kill_stalled_after_s = kill_stalled_after_s
        self._back_at = 0.0
        self._past: dict[str, Any] = dict.fromkeys(
            set(EngineStats.__struct_fields__) - set(_GAUGES), 0
        )
        self._keeping = asyncio.create_task(self._keep())

    @classmethod
    async def start(cls, start: Start, kill_stalled_after_s: float) -> Self:
        """Start the first engine; raises as `start` does: what never ran is not tried again."""
        began = time.monotonic()
        first = await start()
        return cls(start, first, time.monotonic() - began, kill_stalled_after_s)

    @property
    def facts(self) -> ModelFacts:
        """What is served."""
        return self._client.facts

    @property
    def dead(self) -> str | None:
        """Why there is no engine now, or None."""
        return self._client.dead

    @property
    def back_in_s(self) -> float:
        """Seconds, at least 1, until the next engine is up if it loads as fast as the last."""
        return max(1.0, self._back_at - time.monotonic())

    @property
    def stats(self) -> EngineStats:
        """The engine's last report, with what earlier engines counted."""
        stats = self._client.stats
        changed = {name: _sum(getattr(stats, name), past) for name, past in self._past.items()}
        if self.dead is not None:
            changed |= dict.fromkeys(_GAUGES, 0)
        return msgspec.structs.replace(stats, **changed)

    @property
    def open(self) -> int:
        """How many requests are between submission and their last delta."""
        return self._client.open

    def stalled_s(self) -> float:
        """Seconds without a completed step while there is work; 0.0 when there is none."""
        return self._client.stalled_s()

    async def generate(self, request: GenerateRequest) -> Generation:
        """See `EngineClient.generate`."""
        return await self._client.generate(request)

    def fail_open(self, reason: str) -> None:
        """See `EngineClient.fail_open`."""
        self._client.fail_open(reason)

    async def close(self) -> None:
        """Stop the engine, or the start of the next one."""
        self._keeping.cancel()
        await asyncio.wait({self._keeping})
        await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _keep(self) -> None:
        tries = 0
        while True:
            began = time.monotonic()
            await self._end_of_engine()
            if time.monotonic() - began > WELL_AFTER_S:
                tries = 0
            while (client := await self._try(_pause_s(tries))) is None:
                tries += 1
            tries += 1
            for name in self._past:
                self._past[name] = _sum(getattr(self._client.stats, name), self._past[name])
            self._client = client
            self.restarts += 1
            log.warning("The engine process was started again; it is ready.")

    async def _end_of_engine(self) -> None:
        client = self._client
        while client.dead is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.ended.wait(), 1.0)
            stalled_s = client.stalled_s()
            if client.dead is None and 0 < self._kill_stalled_after_s < stalled_s:
                client.give_up(
                    f"The engine completed no step for {stalled_s:.0f} s and was killed."
                )

    async def _try(self, pause_s: float) -> EngineClient | None:
        """Wait, and start an engine; None if that failed."""
        self._back_at = time.monotonic() + pause_s + self._load_s
        log.warning("Starting the engine process again in %.1f s.", pause_s)
        try:
            await self._client.close()
            await asyncio.sleep(pause_s)
            began = time.monotonic()
            client = await self._start()
        except Exception as error:
            # Whatever it was, giving up would leave a server that serves nobody.
            log.error("Starting the engine process again failed: %s", error)
            return None
        self._load_s = time.monotonic() - began
        return client


def _pause_s(tries: int) -> float:
    """Seconds before the next start: none, then doubling from a half, so that it never spins."""
    return min(_LONGEST_PAUSE_S, 2.0 ** (tries - 2)) if tries else 0.0


def _sum(counter: Any, past: Any) -> Any:
    """A counter and what it was before; one by position, position by position."""
    if isinstance(counter, list):
        return [a + b for a, b in zip_longest(counter, past or [], fillvalue=0)]
    return counter + past
