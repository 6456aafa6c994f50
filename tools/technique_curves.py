"""Draw and fill docs/techniques/ from benchmarks/results/*.json, so that no figure is typed.

    python tools/technique_curves.py            # pictures, paragraphs, the index
    python tools/technique_curves.py --check    # change nothing; exit 1 if a page is out of date

A new page is a new `Technique` in one of the four lists below. Its paragraph stands between
the markers of `measured`, the index between those of `index`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pages import ROOT, fill, results
from technique import Results
from technique_fleets import FLEETS
from technique_look import png
from technique_memory import MEMORY
from technique_models import MODELS
from technique_steps import STEPS

HOME = ROOT / "docs/techniques"
TECHNIQUES = (*MEMORY, *STEPS, *MODELS, *FLEETS)


def index(found: Results) -> str:
    """All techniques: whether they keep the text, the switch, one figure, where they lose."""
    rows = [
        "| technique | text | switch | what it gives here | loses where |",
        "|---|---|---|---|---|",
    ]
    for one in TECHNIQUES:
        rows.append(
            f"| [{one.title}]({one.page}.md) | {one.text} | {one.switch} "
            f"| {one.tell(found).short} | {one.loses} |"
        )
    return "\n".join(rows)


def filled(found: Results) -> dict[Path, str]:
    """Each page, and the index, as they should be."""
    texts = {HOME / "README.md": ("index", index(found))}
    for one in TECHNIQUES:
        if (whole := one.tell(found).whole) is not None:
            texts[HOME / f"{one.page}.md"] = ("measured", whole)
    return {path: fill(path.read_text(), *text) for path, text in texts.items()}


def draw(found: Results) -> None:
    """Every picture, into `images/`."""
    for one in TECHNIQUES:
        if one.draw is not None:
            (HOME / "images" / f"{one.page}.png").write_bytes(png(one.draw(found)))


def write(found: Results) -> None:
    """Every page and every picture."""
    for path, text in filled(found).items():
        path.write_text(text)
    draw(found)


def main(check: Annotated[bool, typer.Option("--check", help="Change nothing.")] = False) -> None:
    found = results()
    if not check:
        write(found)
        return
    stale = [path for path, text in filled(found).items() if path.read_text() != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is not what the results say", file=sys.stderr)
    raise typer.Exit(bool(stale))


if __name__ == "__main__":
    typer.run(main)
