"""What came of a simulation: columns, figures, the state over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.record.record import Outcome, Record
from penstock.record.run import Condition, Load, Point, Run
from penstock.record.series import Series
from penstock.record.slo import Slo
from penstock.simulate.books import OUTCOMES
from penstock.simulate.call import Span
from penstock.simulate.events import event_times
from penstock.simulate.fleet import Fleet

Seconds = npt.NDArray[np.float64]
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


class ReplicaReport(msgspec.Struct, kw_only=True):
    """One place for a replica: what it did, over all its lives.

    `paid_s` is the time from when a replica was asked for until it was gone;
    `busy` the share of that in which steps ran, and `short_of_pages` the share of
    `busy` in which a request waited though it lacked nothing but KV pages.
    """

    number: int
    role: str
    paid_s: float
    busy: float
    short_of_pages: float
    steps: int
    prefill_tokens: int
    output_tokens: int
    cached_share: float | None
    preemptions: int


class BacklogReport(msgspec.Struct, kw_only=True):
    """What became of the batch jobs in the gaps."""

    finished: int
    unfinished: int
    failed: int
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_s: float


class Simulated(msgspec.Struct, kw_only=True, dict=True):
    """A simulation's result. Times are of virtual time, from the start of the load.

    `table` has a row for each choice of each request, in the order in which
    they ended; `spans` each row's steps where events were kept. `wall_s` is
    the real time it took, the one thing here that two equal simulations differ in.
    """

    fleet: Fleet
    load: Load
    conditions: dict[str, Condition]
    notes: list[str]
    warmup: int
    stop_ns: int  # when the load stopped
    end_ns: int  # when the last request ended
    table: pa.Table
    spans: list[Sequence[Span]] | None
    series: list[Series]
    replicas: list[ReplicaReport]
    backlog: BacklogReport | None
    wall_s: float

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of the table; a time that never came is NaN."""
        return self.table.column(name).to_numpy()

    @cached_property
    def finished(self) -> npt.NDArray[np.bool_]:
        """Which rows finished."""
        return np.asarray(self.column("outcome") == OUTCOMES.index(Outcome.FINISHED))

    @cached_property
    def ttft_s(self) -> Seconds:
        """Seconds from when each request was wanted to its first token; NaN where none came."""
        return self._between("asked_ns", "first_ns")

    @cached_property
    def e2e_s(self) -> Seconds:
        """Seconds from when each request was wanted to its last token; NaN where none came."""
        return self._between("asked_ns", "last_ns")

    @cached_property
    def tpot_s(self) -> Seconds:
        """Seconds per output token after the first; NaN for answers of one token."""
        later = self.column("output_tokens") - 1
        return self._between("first_ns", "last_ns") / np.where(later > 0, later, np.nan)

    @cached_property
    def queue_s(self) -> Seconds:
        """Seconds from when each request was wanted until its first chunk began."""
        return self._between("asked_ns", "started_ns")

    def good(self, slos: Sequence[Slo]) -> npt.NDArray[np.bool_]:
        """Which rows finished within every limit; see `Slo`."""
        values = {"ttft": self.ttft_s, "tpot": self.tpot_s, "e2e": self.e2e_s}
        good = self.finished.copy()
        for slo in slos:
            within = values[slo.metric] <= slo.limit_s
            if slo.metric == "tpot":
                within |= np.isnan(values["tpot"])
            good &= within
        return good

    @property
    def replica_s(self) -> float:
        """Seconds of replicas that were paid for."""
        return sum(one.paid_s for one in self.replicas)

    def summary(self, slos: Sequence[Slo] = ()) -> dict[str, Any]:
        """The figures: what `penstock simulate --json` prints. The same for equal simulations.

        Rates are over the time from start to the end of the last request.
        """
        done, seconds = self.finished, max(self.end_ns, 1) * 1e-9
        outputs, prompts = self.column("output_tokens"), self.column("prompt_tokens")
        cached = self.column("cached_tokens")
        outcomes = Counter(OUTCOMES[i].value for i in self.column("outcome").tolist())
        errors = Counter(
            str(error).partition(":")[0]
            for error in self.table.column("error").drop_null().to_pylist()
        )
        good = self.good(slos)
        return {
            "fleet": self.fleet.name,
            "load": msgspec.to_builtins(self.load),
            "conditions": self.conditions,
            "seconds": seconds,
            "requests": {
                "sent": len(self.table),
                **{str(each): outcomes[each] for each in OUTCOMES[:3]},
                "refused": errors["http_429"],
                "by_error": dict(sorted(errors.items())),
                "retried": int((self.column("retries") > 0).sum()),
            },
            "output_throughput": float(outputs[done].sum()) / seconds,
            "input_throughput": float(prompts[done].sum()) / seconds,
            "request_throughput": float(done.sum()) / seconds,
            "ttft": spread(self.ttft_s[done]),
            "tpot": spread(self.tpot_s[done]),
            "e2e": spread(self.e2e_s[done]),
            "queue": spread(self.queue_s[done]),
            "slo": {str(slo): float(self.good([slo]).mean()) for slo in slos},
            "goodput": {
                "share": float(good.mean()) if len(good) else None,
                "requests_per_s": float(good.sum()) / seconds,
            },
            "by_priority": self._by_priority(),
            "cached_share": float(cached[done].sum() / max(prompts[done].sum(), 1)),
            "preemptions": int(self.column("preemptions").sum()),
            "replica_hours": self.replica_s / 3600,
            "replicas": msgspec.to_builtins(self.replicas),
            "batch": msgspec.to_builtins(self.backlog),
            "notes": self.notes,
        }

    def _by_priority(self) -> dict[str, Any]:
        """Waits of those in front and those in the background; empty where all are equal."""
        priority = self.column("priority")
        return {
            name: {
                "requests": int(those.sum()),
                "ttft": spread(self.ttft_s[those & self.finished]),
                "e2e": spread(self.e2e_s[those & self.finished]),
            }
            for name, those in (("front", priority == 0), ("background", priority == 1))
            if 0 < those.sum() < len(those)
        }

    def save(self, directory: Path, figures: dict[str, Any]) -> None:
        """Write `simulation.json`, `requests.parquet` and `series.parquet`.

        Equal simulations give equal bytes. Raises `OSError` where they cannot be written.
        """
        directory.mkdir(parents=True, exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(figures), indent=1)
        (directory / "simulation.json").write_bytes(text + b"\n")
        pq.write_table(self.table, directory / "requests.parquet")
        watched = [msgspec.structs.asdict(series) for series in self.series]
        pq.write_table(pa.Table.from_pylist(watched), directory / "series.parquet")

    def records(self, base_ns: int = 0) -> list[Record]:
        """The rows as a meter's records, in the order in which they were wanted.

        Where events were not kept, a record has two: the first token, and all
        others at the last one's time.
        """
        rows = self.table.to_pylist()
        every = [
            record_of(row, base_ns, self.spans[i] if self.spans is not None else None)
            for i, row in enumerate(rows)
        ]
        return sorted(every, key=lambda record: record.sched_ns)

    def run(self, slos: Sequence[Slo] = ()) -> Run:
        """The same as a run of one point; `record.summary.summarise` makes its figures."""
        point = Point(
            load=self.load,
            start_ns=0,
            stop_ns=self.stop_ns,
            end_ns=self.end_ns,
            warmup=self.warmup,
            conditions=self.conditions,
            notes=self.notes,
            records=self.records(),
        )
        target = {"kind": "sim", "name": self.fleet.name, "model": self.fleet.name, "facts": None}
        return Run(
            started="virtual time",
            target=target,
            points=[point],
            slos=list(slos),
            series=self.series,
        )

    def _between(self, earlier: str, later: str) -> Seconds:
        start, end = self.column(earlier), self.column(later)
        return np.asarray((end - start) * 1e-9, dtype=np.float64)


def record_of(row: dict[str, Any], base_ns: int, spans: Sequence[Span] | None) -> Record:
    """A row of the table as a record; `base_ns` is when the load began."""
    said, first, last = row["output_tokens"], row["first_ns"], row["last_ns"]
    if spans is not None:
        event_ns = event_times(spans, base_ns)
        event_tokens = [1] * len(event_ns)
    else:
        times = [] if first is None else [first] if said < 2 else [first, last]
        event_ns = [base_ns + when for when in times]
        event_tokens = [1, said - 1][: len(event_ns)]
    outcome = OUTCOMES[row["outcome"]]

    def since(when: int | None) -> int | None:
        return None if when is None else base_ns + when

    return Record(
        request_id=row["request_id"],
        choice=row["choice"],
        outcome=outcome,
        error=row["error"],
        sched_ns=base_ns + row["asked_ns"],
        sent_ns=base_ns + row["asked_ns"],
        first_ns=since(first),
        last_ns=since(last),
        end_ns=since(row["end_ns"]),
        event_ns=event_ns,
        event_tokens=event_tokens,
        prompt_tokens_asked=row["prompt_tokens"],
        output_tokens_asked=row["output_tokens_asked"],
        prompt_tokens=row["prompt_tokens"],
        cached_tokens=row["cached_tokens"],
        output_tokens=said,
        finish_reason="length" if outcome is Outcome.FINISHED else None,
        counted_by="simulator",
        laid_by="simulated steps" if spans is not None else "first and last",
        session=row["session"],
        turn=row["turn"],
        session_end=row["session_end"],
    )


def spread(values: Seconds) -> dict[str, float | int | None]:
    """Mean, percentiles and count of what is known."""
    known = values[~np.isnan(values)]
    if not len(known):
        return {"mean": None, **dict.fromkeys(QUANTILES), "n": 0}
    found = np.quantile(known, list(QUANTILES.values())).tolist()
    quantiles = dict(zip(QUANTILES, found, strict=True))
    return {"mean": float(known.mean()), **quantiles, "n": len(known)}
