"""What is asked: its shape, its lengths, its text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PANEL = "Workload"

Workload = Annotated[
    str,
    typer.Option(
        "--workload",
        "--preset",
        rich_help_panel=PANEL,
        help="What is asked: plain, prefix:GROUPS,TOKENS, rag:DOCUMENTS,TOKENS, "
        "sessions:TURNS,THINK or agent; or a preset with lengths, load and limits: "
        "voice, chat, coding, batch.",
    ),
]
InputLen = Annotated[
    str,
    typer.Option(
        rich_help_panel=PANEL,
        help="Tokens in a prompt: 128, 64-256, normal:256,64 or lognormal:256,200.",
    ),
]
OutputLen = Annotated[
    str,
    typer.Option(
        rich_help_panel=PANEL,
        help="Tokens in an answer, written the same way.",
    ),
]
N = Annotated[
    int,
    typer.Option(
        "--n",
        min=1,
        rich_help_panel=PANEL,
        help="Samples of each prompt, in one request.",
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="A .jsonl file of prompts, used as they are, or a text to cut prompts from. "
        "Default: standard-library sources.",
    ),
]
CompressPrompts = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="Send shorter prompts: this share of each (of --input-len too), chosen by a small "
        "model before anything is measured.",
    ),
]
CompressModel = Annotated[
    str,
    typer.Option(
        rich_help_panel=PANEL,
        help="The small model that chooses: a name or a directory.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        min=0,
        rich_help_panel=PANEL,
        help="Of lengths, prompts and arrivals.",
    ),
]
Salt = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PANEL,
        help="Opens every prompt, so that no cache knows it. Default: fresh in each run.",
    ),
]
