"""What becomes of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PANEL = "Output"

Out = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="Directory for the run. Default: a new one under runs/.",
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        rich_help_panel=PANEL,
        help="Print the summary, and only that, as JSON.",
    ),
]
Html = Annotated[
    bool,
    typer.Option(
        rich_help_panel=PANEL,
        help="Write report.html beside the run.",
    ),
]
Png = Annotated[
    bool,
    typer.Option(
        "--png",
        rich_help_panel=PANEL,
        help="Write report.png beside the run: user speed against throughput.",
    ),
]
