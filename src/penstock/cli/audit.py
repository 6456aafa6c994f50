"""`penstock audit`: whether somebody's figure can be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from penstock.plan.audit.claim import Claim


def audit(
    claim: Annotated[
        str,
        typer.Argument(
            help="A sentence ('2,100 tokens/s for Llama 70B in fp16 on one wafer'), FILE.toml or "
            "FILE.json with the fields of a claim, or the directory of a run."
        ),
    ],
    *,
    sheets: Annotated[
        list[Path] | None,
        typer.Option("--sheets", help="Hardware sheets of your own, FILE.toml; repeatable."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the figure here.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a picture here.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the audit, and only that, as JSON.")
    ] = False,
) -> None:
    """Judge a claimed speed: impossible, implausible, plausible, or underspecified.

    Says what each reading of it would take of memory, bandwidth and arithmetic,
    shows what was measured nearest to it, and what to ask. Fields of a file:
    figure, unit (tokens/s, ms/token, ms to first token, requests/s, x), whose
    (user, device, system, ratio), model or parameters and active_parameters,
    precision, kv_precision, hardware, devices, batch, concurrency, user_speed,
    prompt, output, phase (decode, prefill, served, total), speculation,
    technique and baseline of a ratio. What is left out is unknown.
    """
    from penstock.plan.audit.facts import facts
    from penstock.plan.audit.verdict import audit as judge

    own = tuple(sheets or ())
    try:
        made = judge(_claim(claim, own), *own)
    except ValueError as error:
        _fail(str(error))
    if json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(facts(made)), indent=1).decode())
    else:
        from rich.console import Console

        from penstock.report.audit import show

        show(made, Console())
    try:
        if html is not None:
            from penstock.report.audit import write_html

            write_html(made, html)
        if png is not None:
            from penstock.report.audit import write_png

            write_png(made, png)
    except (OSError, ValueError) as error:
        _fail(str(error))


def _claim(text: str, sheets: tuple[Path, ...]) -> Claim:
    from penstock.plan.audit import claim, claim_run, claim_text

    if text.endswith((".toml", ".json")) and " " not in text.strip():
        return claim.read(Path(text), *sheets)
    if text.strip() and "\n" not in text and len(text) < 256 and Path(text).is_dir():
        return claim_run.read(Path(text))
    return claim_text.parse(text, *sheets)


def _fail(message: str) -> None:
    print(f"penstock audit: {message}", file=sys.stderr)
    raise typer.Exit(1)
