"""What the simulator's benchmarks share: their JSON and their pictures. Needs no PyTorch."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import vl_convert as vlc

import penstock
from penstock.report import look


def keep(result: dict[str, Any], out: Path | None) -> None:
    """Print a result with its version and date, and write it where asked."""
    text = json.dumps(
        {"penstock": penstock.__version__, "date": date.today().isoformat(), **result}, indent=2
    )
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")


def draw(chart: Any, path: Path) -> None:
    """Write a chart as a PNG on our paper, its pixels doubled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(vlc.vegalite_to_png(look.on_paper(chart).to_json(), scale=2))
