"""Recorded traffic: when requests came, how long they were, and what they shared.

A trace's format is recognised by its content, never by its name; `.gz` is
opened as it is. Files are read row by row, no further than the limit.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import IO, Annotated, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.record.run import Run
from penstock.workload.pieces import Piece

Counts = npt.NDArray[np.int64]
Runs = Sequence[tuple[int, int]]


class Row(NamedTuple):
    """One request of a trace.

    `at_s` counts from any moment of the trace (of the session, where it has
    one). `blocks` are the ids of its prompt's blocks of `Trace.block_tokens`,
    as runs (first, beyond the last): prompts that begin with equal ids begin
    with equal text.
    """

    at_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: Runs | None = None
    session: str | None = None
    think_s: float = 0.0


class Trace(msgspec.Struct, kw_only=True):
    """Requests by column, in order of time. Seconds count from the first of them.

    `sessions` are the rows of each session, in order, where the trace has
    sessions; their times are then of no use, only `think_s`: the pause after
    the answer before.
    """

    format: str
    at_s: npt.NDArray[np.float64]
    prompt_tokens: Counts
    output_tokens: Counts
    blocks: list[Runs] | None = None
    block_tokens: int = 0
    think_s: list[float] = []
    sessions: list[Counts] | None = None

    def __len__(self) -> int:
        return len(self.at_s)

    def pieces(self, index: int, tokens: int, copy: int = 0) -> list[Piece]:
        """The first `tokens` of a request's prompt, by block; what has no id is its own.

        Another `copy` of the trace shares nothing with this one.
        """
        pieces: list[Piece] = []
        for start, stop in self.blocks[index] if self.blocks else ():
            for id_ in range(start, stop):
                pieces.append((f"block {copy} {id_}", min(self.block_tokens, tokens)))
                tokens -= self.block_tokens
                if tokens <= 0:
                    return pieces
        return [*pieces, (f"own {copy} {index}", tokens)]


def read_trace(path: Path, limit: int | None = None) -> Trace:
    """Read the first `limit` requests of a trace, of any format in `FORMATS`, or of a run.

    A length of zero becomes one token. Raises `ValueError` naming file, line
    and column of what cannot be read, `OSError` where there is no file.
    """
    if path.is_dir() or (path.parent.is_dir() and "#" in path.name):
        return _table("a run of penstock", 0, _run_rows(path, limit), path)
    with _opened(path) as file:
        first = next((line for line in file if line.strip()), "")
        if first.lstrip().startswith("{"):
            rows = _mooncake_rows(chain([first], file), path)
            return _table("Mooncake", 512, islice(rows, limit), path)
        columns = [name.strip() for name in next(csv.reader([first]), [])]
        for name, (needed, block_tokens, read) in FORMATS.items():
            if set(needed) <= set(columns):
                cells = _cells(csv.DictReader(file, columns), path)
                return _table(name, block_tokens, islice(read(cells), limit), path)
    known = "; ".join(f"{name}: {', '.join(needed)}" for name, (needed, *_) in FORMATS.items())
    raise ValueError(
        f"{path}, line 1: no trace format has these columns ({', '.join(columns)[:200] or 'none'})."
        f" Known are {known}; Mooncake's JSON lines; and the directory of a run."
    )


class _Cells:
    """One line of a CSV: cells by column, each read with errors that name line and column."""

    def __init__(self, where: str, cells: Mapping[str, str | None]) -> None:
        self._where = where
        self._cells = cells

    def text(self, column: str) -> str:
        value = self._cells.get(column)
        if value is None:
            raise ValueError(f"{self._where}: the line ends before column {column}")
        return value

    def number(self, column: str, *, empty: float | None = None) -> float:
        text = self.text(column)
        if not text and empty is not None:
            return empty
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise ValueError(
                f"{self._where}, column {column}: {text!r} is no number from zero upwards"
            )
        return value

    def count(self, column: str) -> int:
        return int(self.number(column))

    def moment(self, column: str) -> float:
        text = self.text(column)
        try:
            return datetime.fromisoformat(text).timestamp()
        except ValueError as error:
            raise ValueError(f"{self._where}, column {column}: {error}") from None


def _cells(reader: csv.DictReader[str], path: Path) -> Iterator[_Cells]:
    for row in reader:
        yield _Cells(f"{path}, line {reader.line_num + 1}", row)


def _azure_rows(lines: Iterable[_Cells]) -> Iterator[Row]:
    for line in lines:
        yield Row(
            line.moment("TIMESTAMP"), line.count("ContextTokens"), line.count("GeneratedTokens")
        )


def _burstgpt_rows(lines: Iterable[_Cells]) -> Iterator[Row]:
    for line in lines:
        yield Row(
            line.number("Timestamp"), line.count("Request tokens"), line.count("Response tokens")
        )


def _agentic_rows(lines: Iterable[_Cells]) -> Iterator[Row]:
    """The table tells how many leading blocks were seen before, not which: ids are made up so.

    A request shares its blocks with the request before it in its session, or
    with the latest that has as many blocks as were seen anywhere in it.
    """
    unused = 0
    session, earlier = "", list[Runs]()
    for line in lines:
        if line.text("trace") != session:
            session, earlier = line.text("trace"), []
        blocks = line.count("blocks")
        shared = line.count("prefix_blocks_prev_request")
        model = earlier[-1] if earlier else ()
        if (seen := line.count("prefix_blocks_seen_in_trace")) > shared:
            shared = seen
            model = next((ids for ids in reversed(earlier) if _length(ids) >= seen), model)
        ids = _head(model, min(shared, blocks))
        fresh = blocks - _length(ids)
        ids = joined([*ids, (unused, unused + fresh)])
        unused += fresh
        earlier.append(ids)
        yield Row(
            line.number("t_s"),
            line.count("in_tokens"),
            line.count("out_tokens"),
            ids,
            session,
            line.number("think_time_s", empty=0.0),
        )


def _length(ids: Runs) -> int:
    return sum(stop - start for start, stop in ids)


def _head(ids: Runs, count: int) -> Runs:
    """The first `count` of the ids."""
    head = []
    for start, stop in ids:
        head.append((start, min(stop, start + count)))
        count -= stop - start
        if count <= 0:
            break
    return head


def joined(ids: Runs) -> Runs:
    """The same ids in as few runs as can be."""
    joined: list[tuple[int, int]] = []
    for start, stop in ids:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        elif stop > start:
            joined.append((start, stop))
    return tuple(joined)


_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Line(msgspec.Struct):
    timestamp: float  # ms
    input_length: _Count
    output_length: _Count
    hash_ids: list[_Count] = []


def _mooncake_rows(lines: Iterable[str], path: Path) -> Iterator[Row]:
    decoder = msgspec.json.Decoder(_Line)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = decoder.decode(line)
        except msgspec.DecodeError as error:
            raise ValueError(
                f"{path}, line {number}: {error}; a line of Mooncake's format has timestamp (ms), "
                "input_length, output_length and hash_ids"
            ) from None
        ids = joined([(id_, id_ + 1) for id_ in row.hash_ids])
        yield Row(row.timestamp / 1000, row.input_length, row.output_length, ids)


FORMATS: dict[str, tuple[tuple[str, ...], int, Callable[[Iterator[_Cells]], Iterator[Row]]]] = {
    "Azure": (("TIMESTAMP", "ContextTokens", "GeneratedTokens"), 0, _azure_rows),
    "BurstGPT": (("Timestamp", "Request tokens", "Response tokens"), 0, _burstgpt_rows),
    "agentic coding": (
        (
            *("trace", "t_s", "in_tokens", "out_tokens", "blocks", "prefix_blocks_seen_in_trace"),
            *("prefix_blocks_prev_request", "think_time_s"),
        ),
        64,
        _agentic_rows,
    ),
}
_RUN_COLUMNS = [
    *("point", "choice", "sched_ns"),
    *("prompt_tokens", "prompt_tokens_asked", "output_tokens", "output_tokens_asked"),
]


def _run_rows(path: Path, limit: int | None) -> Iterator[Row]:
    """What a run's point was sent: `runs/x` where it has one point, `runs/x#2` for its second."""
    directory, _, point = str(path).partition("#")
    try:
        run = msgspec.json.decode((Path(directory) / "run.json").read_bytes(), type=Run)
        table = pq.read_table(Path(directory) / "requests.parquet", columns=_RUN_COLUMNS)
    except FileNotFoundError as error:
        raise ValueError(f"{directory} is no run: {error.filename or error} is missing") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"{directory} is damaged: {error}") from None
    if not point and len(run.points) > 1:
        raise ValueError(
            f"{directory} has {len(run.points)} operating points; "
            f"choose one: {directory}#1 to {directory}#{len(run.points)}"
        )
    if point and not (point.isdigit() and 1 <= int(point) <= len(run.points)):
        raise ValueError(f"{path}: there are operating points 1 to {len(run.points)}")
    index = int(point or 1) - 1
    chosen = (pc.field("point") == index) & (pc.field("choice") == 0)
    for row in table.filter(chosen).slice(0, limit).to_pylist():
        yield Row(
            (row["sched_ns"] - run.points[index].start_ns) * 1e-9,
            row["prompt_tokens"] or row["prompt_tokens_asked"] or 1,
            row["output_tokens"] or row["output_tokens_asked"] or 1,
        )


def _table(name: str, block_tokens: int, rows: Iterable[Row], path: Path) -> Trace:
    listed = list(rows)
    if not listed:
        raise ValueError(f"{path} holds no request.")
    sessions: dict[str, list[int]] | None = None
    if listed[0].session is not None:
        sessions = {}
        for index, row in enumerate(listed):
            sessions.setdefault(str(row.session), []).append(index)
    else:
        listed.sort(key=lambda row: row.at_s)
    at_s = np.array([row.at_s for row in listed])
    return Trace(
        format=name,
        # A run's times count from its start already.
        at_s=at_s if name == "a run of penstock" else at_s - at_s.min(),
        prompt_tokens=np.array([max(row.prompt_tokens, 1) for row in listed]),
        output_tokens=np.array([max(row.output_tokens, 1) for row in listed]),
        blocks=[row.blocks for row in listed if row.blocks is not None] or None,
        block_tokens=block_tokens,
        think_s=[row.think_s for row in listed] if sessions else [],
        sessions=[np.array(indices) for indices in sessions.values()] if sessions else None,
    )


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    opener = gzip.open if packed else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as text:
            yield text
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error}") from None
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is a damaged gzip file: {error}") from None


def clip(trace: Trace, context: int) -> tuple[Trace, str | None]:
    """Make every request fit a context of so many tokens, prompt and output together.

    Output keeps up to half of the context, the prompt gets what is left.
    Returns the trace and a sentence with counts, or None if all fitted.
    """
    output = np.minimum(trace.output_tokens, context // 2)
    prompt = np.minimum(trace.prompt_tokens, context - output)
    prompts = int((prompt != trace.prompt_tokens).sum())
    outputs = int((output != trace.output_tokens).sum())
    if not prompts and not outputs:
        return trace, None
    note = (
        f"clipped to a context of {context:,} tokens: {prompts} of {len(trace)} prompts and "
        f"{outputs} of {len(trace)} outputs are shorter than asked"
    )
    return msgspec.structs.replace(trace, prompt_tokens=prompt, output_tokens=output), note
