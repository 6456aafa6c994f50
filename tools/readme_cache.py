"""The tables of docs/prefix_cache.md: hits by pool size, and the simulator against the engine."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.plan.cache import Sweep
from penstock.record.sentences import number
from penstock.report.cache import asked, sentences
from penstock.report.table import figure


def swept(result: dict[str, Any]) -> str:
    """A sweep that `penstock cache --json` printed: what it says, and a row for each size."""
    made = msgspec.convert(result, Sweep)
    rows = [
        " ".join([asked(made), *(f"{note}." for note in made.notes)]),
        "",
        " ".join(sentences(made)),
        "",
        "| KV | tokens | hits | output tok/s | TTFT p50, s | p99, s | short of pages | busy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for pool in result["pools"]:
        name = f"{number(pool['gigabytes'])} GB"
        marks = (
            ("knee", result["knee"]["at"]),
            ("by itself", result["held"]),
            ("never forgets", result["unbounded"]),
        )
        said = ", ".join(mark for mark, marked in marks if marked == pool)
        rows.append(
            f"| {name}{f' ({said})' if said else ''} | {pool['tokens']:,} "
            f"| {pool['hit_rate']:.1%} | {figure(pool['output_tokens_per_s'])} "
            f"| {figure(pool['ttft_p50_s'])} | {figure(pool['ttft_p99_s'])} "
            f"| {pool['short_of_pages']:.0%} | {pool['busy']:.0%} |"
        )
    return "\n".join(rows)


def validated(result: dict[str, Any]) -> str:
    """Hit rates of the engine and of the simulator, by trace, way of sending, and size."""
    rows = [
        "| piece of | sent | KV tokens | measured | simulated | difference, points |",
        "|---|---|---|---|---|---|",
    ]
    for trace in ("mooncake", "agentic"):
        for way in ("one at a time", "four at once", "as recorded"):
            for row in sorted(result[trace][way]["sizes"], key=lambda row: row["kv_tokens"]):
                rows.append(
                    f"| {trace} | {way} | {row['kv_tokens']:,} | {row['measured']:.2%} "
                    f"| {row['simulated']:.2%} | {row['points']:+.2f} |"
                )
    told = result["conditions"]
    rows += ["", f"{told['date']}, the {told['model']} model, pages of {told['page_tokens']} "
             f"tokens, {result['mooncake']['requests']} requests of Mooncake's trace and "
             f"{result['agentic']['requests']} of the agentic one."]  # fmt: skip
    return "\n".join(rows)
