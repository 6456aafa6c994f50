"""What is on disk for the project's pages: results, and places in pages for them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def results() -> dict[str, Any]:
    """Every result of `benchmarks/results/`, by the name of its file."""
    return {p.stem: json.loads(p.read_text()) for p in ROOT.glob("benchmarks/results/*.json")}


def fill(text: str, name: str, content: str) -> str:
    """Replace what stands between the markers of `name`.

    Raises `ValueError` where there are none.
    """
    pattern = re.compile(f"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"there are no markers for {name!r}")
    return pattern.sub(lambda m: f"{m[1]}{content}\n{m[2]}", text)
