"""`penstock explain`: one prompt through every stage of the engine."""

from __future__ import annotations

import importlib.util
import sys
from typing import Annotated

import typer


def explain(
    prompt: Annotated[str, typer.Argument(help="Text to continue.")],
    *,
    model: Annotated[
        str, typer.Option(help="embedded, embedded-draft, or a directory in Hugging Face layout.")
    ] = "embedded",
    tokens: Annotated[int, typer.Option(min=1, help="How far each way of choosing goes on.")] = 8,
    temperature: Annotated[
        float, typer.Option(help="Of all that draws: top-k, top-p and plain sampling.")
    ] = 1.0,
    top_k: Annotated[int, typer.Option(min=1, help="Tokens that top-k keeps.")] = 40,
    top_p: Annotated[float, typer.Option(help="Probability that top-p keeps.")] = 0.9,
    beams: Annotated[int, typer.Option(min=1, max=128, help="Width of the beam search.")] = 4,
    seed: Annotated[int, typer.Option(help="Of all that draws.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Show what PROMPT costs at each stage of the engine, and how its next token is chosen.

    Token ids and pieces, the likeliest next tokens, what each way of choosing
    makes of them, and the time of each stage beside what the machine allows.
    """
    if missing := [n for n in ("torch", "safetensors") if importlib.util.find_spec(n) is None]:
        _fail(f"{', '.join(missing)} not installed. Run: pip install 'penstock[engine]'")
    from penstock.engine import explain as engine

    print("Running the prompt and measuring this machine ...", file=sys.stderr)
    try:
        settings = engine.Settings(
            tokens=tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            beams=beams,
            seed=seed,
        )
        told = engine.explain(prompt, model, settings)
    except (ValueError, OSError) as error:
        _fail(str(error))
    if json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(told), indent=1).decode())
        return
    from rich.console import Console

    from penstock.report.explain import show

    show(told, Console())


def _fail(message: str) -> None:
    print(f"penstock explain: {message}", file=sys.stderr)
    raise typer.Exit(1)
