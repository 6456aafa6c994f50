"""A technique as docs/techniques/ tells of it: a row of the index, a page, and its picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from technique_look import Panel

Results = Mapping[str, Any]  # of benchmarks/results/, by the name of the file


class Told(NamedTuple):
    """What was found: in the index, and in the page; None where others fill the page's tables."""

    short: str
    whole: str | None


@dataclass(frozen=True, kw_only=True)
class Technique:
    """One page, `page`.md, and how what stands in it is made of results.

    `text` says whether answers stay as they are: exact or lossy. `draw` is None where the
    page shows a picture of another page, or none.
    """

    page: str
    title: str
    text: str
    switch: str
    loses: str
    tell: Callable[[Results], Told]
    draw: Callable[[Results], Sequence[Panel]] | None = None
