"""What to look for beyond the loads that were named."""

from __future__ import annotations

from typing import Annotated

import typer

PANEL = "Search"

Sweep = Annotated[
    bool,
    typer.Option(
        "--sweep",
        rich_help_panel=PANEL,
        help="Climb the load until throughput grows no more or the server falls behind: "
        "requests at once, from --concurrency up, or the rate of --rate or --arrival.",
    ),
]
Capacity = Annotated[
    bool,
    typer.Option(
        "--capacity",
        rich_help_panel=PANEL,
        help="Search for the highest load at which 99 % of the requests (or the quantile a "
        "limit names) meet every limit of --slo, with its interval: some 25 trials of "
        "--duration. After --sweep it begins where that ended.",
    ),
]
Interleave = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="A second target, measured in alternation with the first, and compared.",
    ),
]
