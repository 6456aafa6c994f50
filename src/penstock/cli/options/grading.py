"""Tasks whose answers are graded."""

from __future__ import annotations

from typing import Annotated

import typer

PANEL = "Tasks, whose answers are graded"

Tasks = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="Ask questions and grade the answers: doctests, humaneval:PATH, gsm8k:PATH or "
        "a FILE.jsonl of your own.",
    ),
]
Samples = Annotated[
    str,
    typer.Option(
        rich_help_panel=PANEL,
        help="Ask each task so many times and count the answer most give, comma-separated: "
        "an operating point each.",
    ),
]
FewShot = Annotated[
    int | None,
    typer.Option(
        min=0,
        rich_help_panel=PANEL,
        help="Worked examples before each task. Default: 4; humaneval and your own: 0.",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=2,
        rich_help_panel=PANEL,
        help="Of tasks' answers. Default: 0; 0.8 where --samples has more than 1.",
    ),
]
UnsafeSandbox = Annotated[
    bool,
    typer.Option(
        "--unsafe-sandbox",
        rich_help_panel=PANEL,
        help="Run answers as programs even where this system cannot shut off network, "
        "processes and files.",
    ),
]
