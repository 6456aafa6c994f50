"""How much is asked, for how long, how often, and by whom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PANEL = "Load"

Concurrency = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="Closed loop: so many requests always under way, comma-separated. "
        "Default: 1,16; 16 with --tasks; 1 to begin a search.",
    ),
]
Rate = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="Open loop instead: Poisson arrivals per second, comma-separated.",
    ),
]
Arrival = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="Open loop instead, by another law: constant:5, gamma:5,0.5 (shape; below 1 is "
        "burstier than Poisson), ramp:1-20,60, spike:2,20,10-15, diurnal:5,0.8,3600.",
    ),
]
Trace = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="Open loop instead: arrivals, lengths and shared prefixes of a trace (Azure, "
        "BurstGPT, Mooncake, agentic coding, or the directory of a run).",
    ),
]
Speed = Annotated[
    float,
    typer.Option(
        rich_help_panel=PANEL,
        help="Replay the trace so many times as fast.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=PANEL,
        help="Take so many requests of the trace, or tasks.",
    ),
]
Requests = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=PANEL,
        help="Requests at each operating point.",
    ),
]
Duration = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="Seconds of load at each operating point. "
        "Default: 30; 600 with --requests, --trace or --tasks.",
    ),
]
Repeats = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=PANEL,
        help="Measure every operating point so often, and take intervals over the repeats. "
        "Default: 1; 5 with --interleave.",
    ),
]
Think = Annotated[
    float,
    typer.Option(
        min=0,
        rich_help_panel=PANEL,
        help="Closed loop: seconds between an answer and the next.",
    ),
]
Warmup = Annotated[
    int | None,
    typer.Option(
        min=0,
        rich_help_panel=PANEL,
        help="First requests that are warm-up. Default: one a slot; open loop: a tenth.",
    ),
]
MaxTokensTotal = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=PANEL,
        help="End after so many tokens, prompts and answers together. "
        "Default: 2,000,000; 20,000,000 for a search.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=PANEL,
        help="Processes that send. Default: as many as the load calls for.",
    ),
]
