"""Recorded traffic: when requests came and how long they were."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class TraceRow(msgspec.Struct, frozen=True):
    """One request of a trace: seconds from its start, prompt and output tokens."""

    at_s: float
    prompt_tokens: int
    output_tokens: int


def read_azure(path: Path, limit: int | None = None) -> list[TraceRow]:
    """Read Azure's LLM inference traces (TIMESTAMP, ContextTokens, GeneratedTokens).

    Rows are returned in order of time. A length of zero becomes one token.
    Raises `ValueError` naming file, line and what is wrong.
    """
    rows: list[tuple[datetime, int, int]] = []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if missing := [c for c in AZURE_COLUMNS if c not in (reader.fieldnames or [])]:
            raise ValueError(
                f"{path}: no column {', '.join(missing)}; Azure's trace format has "
                f"{', '.join(AZURE_COLUMNS)} in its first line."
            )
        for row in reader:
            if limit is not None and len(rows) >= limit:
                break
            try:
                rows.append(
                    (
                        datetime.fromisoformat(row["TIMESTAMP"]),
                        int(row["ContextTokens"]),
                        int(row["GeneratedTokens"]),
                    )
                )
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    if not rows:
        raise ValueError(f"{path} holds no request.")
    rows.sort(key=lambda row: row[0])
    start = rows[0][0]
    return [TraceRow((t - start).total_seconds(), max(i, 1), max(o, 1)) for t, i, o in rows]


def clip(rows: Sequence[TraceRow], context: int) -> tuple[Sequence[TraceRow], str | None]:
    """Make every request fit a context of so many tokens, prompt and output together.

    Output keeps up to half of the context, the prompt gets what is left.
    Returns the rows and a sentence with counts, or None if all fitted.
    """
    clipped = []
    for row in rows:
        output = min(row.output_tokens, context // 2)
        clipped.append(TraceRow(row.at_s, min(row.prompt_tokens, context - output), output))
    prompts = sum(a.prompt_tokens != b.prompt_tokens for a, b in zip(rows, clipped, strict=True))
    outputs = sum(a.output_tokens != b.output_tokens for a, b in zip(rows, clipped, strict=True))
    if not prompts and not outputs:
        return rows, None
    return clipped, (
        f"clipped to a context of {context:,} tokens: {prompts} of {len(rows)} prompts and "
        f"{outputs} of {len(rows)} outputs are shorter than asked"
    )
