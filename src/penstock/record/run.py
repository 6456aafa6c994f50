"""A run: conditions and records by operating point, as one directory on disk."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.record.price import Price
from penstock.record.record import Outcome, Record
from penstock.record.series import Series
from penstock.record.slo import Slo

FORMAT = 1
Condition = str | int | float | bool | None


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What was offered: so many at once, or so many a second, or a trace."""

    kind: Literal["closed", "open", "trace"]
    concurrency: int | None = None
    rate: float | None = None  # requests/s


class Role(StrEnum):
    """Why an operating point was measured."""

    MEASURED = "measured"  # its figures are the run's
    OVERLOAD = "overload"  # past saturation, to show where the curve ends: no claim of the run
    BRACKET = "bracket"  # to find where to look for capacity
    TRIAL = "trial"  # of the design that capacity is estimated from


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """How a climb of the load ended, in words, and the highest load worth offering.

    None: none was found.
    """

    stopped: str
    best: float | None = None  # requests at once, or requests/s


class Point(msgspec.Struct, kw_only=True):
    """One operating point.

    The load runs from `start_ns` to `stop_ns`: until a closed loop has a slot
    it can no longer fill, or an open one has sent its last request. At
    `end_ns` everything has settled. The first `warmup` requests to be wanted
    are the warm-up; see `steady`. Points of one `load` and different `repeat`
    measure the same thing again, and are one point of the summary.
    """

    load: Load
    start_ns: int
    stop_ns: int
    end_ns: int
    warmup: int
    conditions: dict[str, Condition] = {}
    limit: dict[str, Any] | None = None  # what the hardware allows at this point
    notes: list[str] = []
    repeat: int = 0
    role: Role = Role.MEASURED
    shares_prefixes: bool = False  # prompts do so by design, so that cache hits are wanted
    interrupted: bool = False
    missing: list[str] = []  # what was lost and why, such as the records of a worker that died
    records: list[Record] = []


class Run(msgspec.Struct, kw_only=True):
    """Everything known of one run. `summary` is what `bench --json` prints."""

    started: str  # ISO 8601, UTC
    target: dict[str, Any]
    points: list[Point]
    slos: list[Slo] = []
    rules: str | None = None  # stricter rules to judge by, as given to --rules; see `mlperf`
    price: Price | None = None
    swept: Swept | None = None
    unsettled: str | None = None  # why a search for capacity ended without one
    notes: list[str] = []
    interrupted: bool = False
    format: int = FORMAT
    summary: dict[str, Any] = {}
    series: list[Series] = []  # what the target and its machine told meanwhile


_TEXT, _COUNT, _SMALL = pa.string(), pa.int64(), pa.int32()
_COLUMNS: dict[str, pa.DataType] = {
    "point": _SMALL,
    "request_id": _TEXT,
    "choice": _SMALL,
    "outcome": _TEXT,
    "error": _TEXT,
    "sched_ns": _COUNT,
    "sent_ns": _COUNT,
    "first_ns": _COUNT,
    "last_ns": _COUNT,
    "end_ns": _COUNT,
    "event_ns": pa.list_(_COUNT),
    "event_tokens": pa.list_(_SMALL),
    "prompt_tokens_asked": _COUNT,
    "output_tokens_asked": _COUNT,
    "prompt_tokens": _COUNT,
    "cached_tokens": _COUNT,
    "output_tokens": _COUNT,
    "recounted": _COUNT,
    "words": _COUNT,
    "finish_reason": _TEXT,
    "counted_by": _TEXT,
    "laid_by": _TEXT,
    "session": _TEXT,
    "turn": _SMALL,
    "session_end": _TEXT,
    "task": _TEXT,
    "sample": _SMALL,
    "text": _TEXT,
    "answer": _TEXT,
    "correct": pa.bool_(),
    "wrong_why": _TEXT,
}
_SCHEMA = pa.schema(_COLUMNS)
_WATCHED: dict[str, pa.DataType] = {
    "name": _TEXT,
    "unit": _TEXT,
    "kind": _TEXT,
    "source": _TEXT,
    "position": _SMALL,
    "at_ns": pa.list_(_COUNT),
    "values": pa.list_(pa.float64()),
}
_SERIES = pa.schema(_WATCHED)


def save(run: Run, directory: Path) -> None:
    """Write `run.json` (without records), `requests.parquet` and `metrics.parquet`.

    Creates the directory. Raises `OSError` where it cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    points = [msgspec.structs.replace(point, records=[]) for point in run.points]
    bare = msgspec.structs.replace(run, points=points, series=[])
    text = msgspec.json.format(msgspec.json.encode(bare), indent=1)
    (directory / "run.json").write_bytes(text + b"\n")
    rows = [
        {"point": index, **msgspec.structs.asdict(record)}
        for index, point in enumerate(run.points)
        for record in point.records
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), directory / "requests.parquet")
    watched = [msgspec.structs.asdict(series) for series in run.series]
    pq.write_table(pa.Table.from_pylist(watched, schema=_SERIES), directory / "metrics.parquet")


def load(directory: Path) -> Run:
    """Read a run directory.

    Raises `ValueError` when it is not one, is damaged, or is of a format this
    version does not know.
    """
    run = load_bare(directory)
    try:
        rows = pq.read_table(directory / "requests.parquet").to_pylist()
        for row in rows:
            row["outcome"] = Outcome(row["outcome"])
            run.points[row.pop("point")].records.append(Record(**row))
        run.series = [Series(**row) for row in _watched(directory / "metrics.parquet")]
    except (*_DAMAGE, KeyError, IndexError, TypeError) as error:
        raise ValueError(_fault(directory, error)) from error
    return run


def load_bare(directory: Path) -> Run:
    """Read a run directory without its records: quick, for lists of runs.

    Raises `ValueError` as `load` does.
    """
    try:
        text = (directory / "run.json").read_bytes()
        found = msgspec.json.decode(text, type=_Format).format
        if found != FORMAT:
            raise ValueError(
                f"{directory} has format {found}; this version of penstock reads {FORMAT}."
            )
        return msgspec.json.decode(text, type=Run)
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(_fault(directory, error)) from error


def _watched(path: Path) -> list[dict[str, Any]]:
    # Runs of before it was written have none.
    return pq.read_table(path).to_pylist() if path.exists() else []


class _Format(msgspec.Struct):
    format: int


_DAMAGE = (OSError, pa.ArrowException, ValueError)


def _fault(directory: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"{directory} is not a run: {error.filename or error} is missing."
    return f"{directory} is damaged: {error}"
