"""What a simulation writes down: one compact row a request, and the fleet's state over time."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.record.record import Outcome
from penstock.record.series import Kind, Series
from penstock.simulate.call import Span
from penstock.simulate.clock import Clock
from penstock.simulate.cluster import Cluster, State
from penstock.simulate.player import Entry

OUTCOMES = (Outcome.FINISHED, Outcome.CANCELLED, Outcome.FAILED, Outcome.UNFINISHED)
_NEVER = -1  # in a column of times: that moment never came
_CHUNK = 1 << 16  # rows that are packed together
_SAMPLES = 1200  # of each series, at most

_TIMES = ("asked_ns", "started_ns", "first_ns", "last_ns", "end_ns")
_COUNTS = (
    *("choice", "prompt_tokens", "cached_tokens", "output_tokens_asked", "output_tokens"),
    *("replica", "preemptions", "retries", "outcome", "turn", "priority"),
)
_TEXTS = ("request_id", "error", "session", "session_end")


def row_of(entry: Entry, choice: int) -> dict[str, Any]:
    """What became of one choice of a request, by the columns' names."""
    call, ask = entry.calls[choice], entry.ask
    times = (call.asked_at, call.started, call.first, call.last, call.end)
    assert call.outcome is not None
    return {
        **dict(zip(_TIMES, map(_since, times), strict=True)),
        "choice": choice,
        "prompt_tokens": call.prompt,
        "cached_tokens": call.cached,
        "output_tokens_asked": call.output,
        "output_tokens": call.said,
        "replica": -1 if call.replica is None else call.replica.number,
        "preemptions": call.preemptions,
        "retries": call.retries,
        "outcome": OUTCOMES.index(call.outcome),
        "turn": ask.turn,
        "priority": call.priority,
        "request_id": ask.id,
        "error": call.error,
        "session": ask.session,
        "session_end": entry.session_end,
    }


def _since(when: float | None) -> int | None:
    return None if when is None else nanoseconds(when)


class Books:
    """The ledger of a simulation by itself: columns, about 150 bytes a request.

    Times are nanoseconds of virtual time. `until_s` is when the load stops; what is under
    way then may end.
    """

    def __init__(self, clock: Clock, until_s: float | None, events: bool = False) -> None:
        self.stopped = False
        self.stop_ns = 0
        self.sent = 0
        self.on_stop: Callable[[], None] | None = None
        self.spans: list[Sequence[Span]] | None = [] if events else None
        self._clock = clock
        self._tables: list[pa.Table] = []
        self._times: dict[str, array[int]] = {}
        self._counts: dict[str, array[int]] = {}
        self._texts: dict[str, list[str | None]] = {}
        self._fresh()
        self._deadline = None if until_s is None else clock.at(until_s, self.stop)

    def begin(self, entry: Entry) -> None:
        """See `Ledger`."""
        self.sent += 1

    def stop(self) -> None:
        """See `Ledger`."""
        if not self.stopped:
            self.stopped, self.stop_ns = True, nanoseconds(self._clock.now)
            if self._deadline is not None:
                self._deadline.cancel()
            if self.on_stop is not None:
                self.on_stop()

    def end(self, entry: Entry) -> None:
        """See `Ledger`."""
        for choice, call in enumerate(entry.calls):
            row = row_of(entry, choice)
            for name, times in self._times.items():
                times.append(_NEVER if row[name] is None else row[name])
            for name, counts in self._counts.items():
                counts.append(row[name])
            for name, texts in self._texts.items():
                texts.append(row[name])
            if self.spans is not None:
                self.spans.append(call.spans or ())
        if len(self._texts["error"]) >= _CHUNK:
            self._pack()

    def _fresh(self) -> None:
        self._times = {name: array("q") for name in _TIMES}
        self._counts = {name: array("i") for name in _COUNTS}
        self._texts = {name: [] for name in _TEXTS}

    def _pack(self) -> None:
        columns: dict[str, pa.Array[Any]] = {}
        for name, column in self._times.items():
            values: npt.NDArray[np.int64] = np.frombuffer(column, dtype=np.int64)
            columns[name] = pa.array(values, mask=values == _NEVER)
        for name, column in self._counts.items():
            columns[name] = pa.array(np.frombuffer(column, dtype=np.int32))
        for name, texts in self._texts.items():
            columns[name] = pa.array(texts, pa.string())
        self._tables.append(pa.table(columns))
        self._fresh()

    def table(self) -> pa.Table:
        """All rows, in the order in which the requests ended."""
        self._pack()
        return pa.concat_tables(self._tables)


class Watch:
    """Looks at the fleet every so often: finer at first, always at most `_SAMPLES` times."""

    def __init__(self, cluster: Cluster, every_s: float = 0.1) -> None:
        self._cluster = cluster
        self._every_s = every_s
        self._at: list[float] = []
        self._rows: list[tuple[float, ...]] = []
        self.stopped = False  # look no more, once the fleet has nothing left to do
        self._look()

    def _look(self) -> None:
        cluster = self._cluster
        self._at.append(cluster.clock.now)
        self._rows.append(_state(cluster))
        if len(self._at) >= _SAMPLES:
            del self._at[1::2], self._rows[1::2]
            self._every_s *= 2
        if not self.stopped or cluster.outstanding:
            cluster.clock.at(cluster.clock.now + self._every_s, self._look)

    def series(self, base_ns: int = 0) -> list[Series]:
        """What was seen, named as a server's metrics page would be read."""
        at_ns = [base_ns + nanoseconds(when) for when in self._at]
        columns = list(zip(*self._rows, strict=True))
        return [
            Series(
                name=name,
                unit=unit,
                kind=kind,
                source="simulated fleet",
                at_ns=list(at_ns),
                values=list(column),
            )
            for (name, unit, kind), column in zip(_SERIES, columns, strict=True)
        ]


_SERIES: tuple[tuple[str, str, Kind], ...] = (
    ("running", "requests", "gauge"),
    ("waiting", "requests", "gauge"),
    ("kv_usage", "share", "gauge"),
    ("replicas", "replicas", "gauge"),
    ("preemptions", "preemptions", "counter"),
    ("prefix_queries", "tokens", "counter"),
    ("prefix_hits", "tokens", "counter"),
)


def _state(cluster: Cluster) -> tuple[float, ...]:
    alive = [place for place in cluster.places if place.replica is not None]
    replicas = [place.replica for place in alive if place.replica is not None]
    running = sum(replica.running for replica in replicas)
    kv = sum(replica.kv_share for replica in replicas) / max(len(replicas), 1)
    serving = sum(place.state is State.SERVING for place in alive)
    totals = cluster.totals()
    waiting = sum(replica.waiting for replica in replicas) + cluster.held
    return (
        running,
        waiting,
        kv,
        serving,
        totals.preemptions,
        totals.prompt_tokens,
        totals.cached_tokens,
    )


def nanoseconds(seconds: float) -> int:
    """Virtual seconds as a record holds them."""
    return round(seconds * 1e9)
