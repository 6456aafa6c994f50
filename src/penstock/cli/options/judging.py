"""What the figures are held against, and what they cost."""

from __future__ import annotations

from typing import Annotated

import typer

PANEL = "Limits, verdict and cost"

Slo = Annotated[
    str,
    typer.Option(
        rich_help_panel=PANEL,
        help="Limits a good request meets: ttft<0.5s,tpot.p99<50ms,e2e<10s.",
    ),
]
Rules = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="Hold the verdict to stricter rules: mlperf, or mlperf:MODEL/SCENARIO "
        "(server, interactive, offline).",
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        rich_help_panel=PANEL,
        help="Exit 4 where the verdict is INVALID.",
    ),
]
Price = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="What it costs: 2.5/h for the hardware, or "
        "in=0.15,cached=0.075,out=0.6,batch=0.5x for a million tokens.",
    ),
]
