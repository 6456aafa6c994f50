"""How the target is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PANEL = "How to ask"

Model = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="Model to ask for, where the server has several.",
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        min=2,
        rich_help_panel=PANEL,
        help="Tokens the model holds, where the server does not tell.",
    ),
]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--completions",
        rich_help_panel=PANEL,
        help="Which API to use. Default: completions, or chat where there is no other.",
    ),
]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream/--no-stream",
        rich_help_panel=PANEL,
        help="Whether answers come token by token. Without, only their total time is known.",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="PENSTOCK_API_KEY",
        rich_help_panel=PANEL,
        help="Sent as a bearer token.",
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="The model's tokenizer.json (or its directory), to count exactly.",
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        min=0.1,
        rich_help_panel=PANEL,
        help="Seconds after which a request has failed.",
    ),
]
