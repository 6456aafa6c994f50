"""`penstock selftest`: the meter's own error and its ceiling, on this machine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from penstock.meter.selftest import Row, Setting


def selftest(
    *,
    streams: Annotated[
        str, typer.Option(help="Levels: how many answers stream at once, comma-separated.")
    ] = "1,10,100,1000",
    start: Annotated[
        Literal["burst", "staggered"], typer.Option(help="All streams at once, or spread evenly.")
    ] = "burst",
    ttft: Annotated[float, typer.Option(min=0, help="The server's TTFT, in ms.")] = 50.0,
    itl: Annotated[float, typer.Option(min=0, help="Its time between events, in ms.")] = 50.0,
    events: Annotated[int, typer.Option(min=2, help="Events in an answer.")] = 40,
    tokens_per_event: Annotated[int, typer.Option(min=1, max=500)] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Answers on each stream.")] = 3,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that send. Default: as the load calls for.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Show how far this meter's figures are from the truth, and how much load it can carry.

    A ground-truth server on this machine stamps every event that it sends; the
    meter's stamps are held against those. Needs a C compiler the first time.
    Exits 1 if the server cannot be had.
    """
    from penstock.meter.selftest import Setting
    from penstock.meter.truth import Timing, TruthError

    counts = [int(part) for part in streams.split(",") if part.strip().isdigit()]
    if len(counts) != len(streams.split(",")) or min(counts) < 1:
        raise typer.BadParameter(
            f"{streams!r} is no list of counts from 1; write 1,100,1000", param_hint="--streams"
        )
    timing = Timing(
        ttft_s=ttft / 1e3, itl_s=itl / 1e3, events=events, tokens_per_event=tokens_per_event
    )
    setting = Setting(timing=timing, rounds=rounds, start=start, workers=workers)
    try:
        rows = [_measure(count, setting) for count in counts]
    except (TruthError, OSError) as error:
        print(f"penstock selftest: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(rows), indent=1).decode())
    else:
        _show(rows, setting)


def _measure(streams: int, setting: Setting) -> Row:
    from penstock.meter.selftest import measure

    print(f"{streams} streams ...", file=sys.stderr)
    return asyncio.run(measure(streams, setting))


def _show(rows: Sequence[Row], setting: Setting) -> None:
    from rich.console import Console
    from rich.table import Table

    timing = setting.timing
    table = Table(
        title=f"The meter's own error in ms ({setting.start}, TTFT {timing.ttft_s * 1e3:g} ms, "
        f"{timing.itl_s * 1e3:g} ms between events)"
    )
    heads = "streams;TTFT;p99;ITL;p99;chunks/s;ideal;CPU s/1,000;server late"
    for head in heads.split(";"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        ttft, itl = row.ttft_error_ms, row.itl_error_ms
        errors = [(f"{e.mean:.3f}", f"{e.p99:.3f}") if e else ("-", "-") for e in (ttft, itl)]
        table.add_row(
            f"{row.streams:,}",
            *errors[0],
            *errors[1],
            f"{row.chunks_per_s:,.0f}",
            f"{row.ideal_share:.1%}",
            f"{row.cpu_s_per_1000_chunks:.4f}",
            f"{row.server_late_ms_p99:.3f}",
        )
    console = Console()
    console.print(table)
    for row in rows:
        if not row.valid:
            console.print(f"{row.streams:,} streams do not count: {row.reason}.")
    busiest = max(rows, key=lambda row: row.chunks_per_s)
    ceiling = busiest.chunks_per_core_s
    console.print(
        f"Ceiling, by the CPU time at {busiest.streams:,} streams: {ceiling:,.0f} chunks a second "
        f"and core, so {ceiling * timing.itl_s:,.0f} streams at {timing.itl_s * 1e3:g} ms."
    )
    if not all(row.realtime for row in rows):
        console.print(
            "The kernel does not let this user's processes run before others (real-time "
            "priority, as root or with an rtprio limit): on a busy machine events that wait "
            "to be read together share the stamp of the last."
        )
