"""Which of the tokens guessed ahead came true, by their position in the draft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from penstock.report import look

_STEP = 46  # pixels from one bar to the next, where there is room
_SIGN = 32  # pixels that "100 %" takes
_Share = Mapping[str, float | None]


def by_position(shares: Sequence[_Share], width: int, height: int) -> Any:
    """A bar for each position: of 100 drafts those in which that guess came true.

    Behind it stands, where the server tells, a paler bar of those that had a guess there,
    and above it which part of these came true. `shares` are the summary's `by_position`.
    """
    step = min(_STEP, width // len(shares))
    sign = " %" if step >= _SIGN else ""
    rows = [_row(number, share, sign) for number, share in enumerate(shares, 1)]
    axis = alt.Axis(tickCount=2, format=look.ROUND, minExtent=38, maxExtent=38)
    base = alt.Chart(look.data(rows)).encode(
        x=alt.X("guess:O", title="guess", axis=alt.Axis(labelAngle=0, ticks=False, domain=False))
    )
    # Above a full bar there is room for what stands on it.
    right = alt.Y("accepted:Q", title=None, axis=axis, scale=alt.Scale(domain=[0, 125], nice=False))
    thin = alt.RelativeBandSize(0.6)
    layers = [
        base.mark_bar(color=look.ACCENT[0], width=thin).encode(y=right),
        base.mark_text(dy=-7, fontSize=11, color=look.MUTED[0]).encode(y="top:Q", text="says:N"),
    ]
    title = ["% of drafts in the window: guess right"]
    if any("drafted" in row for row in rows):
        title = [
            "% of drafts in the window: guess made (pale) and right;",
            "over the bars: right of those made",
        ]
        layers.insert(0, base.mark_bar(color=look.GRID[0], width=thin).encode(y="drafted:Q"))
    return alt.layer(*layers, title=title).properties(width=step * len(rows), height=height)


def _row(number: int, share: _Share, sign: str) -> dict[str, Any]:
    accepted, drafted = share["accepted"] or 0.0, share["drafted"]
    row = {"guess": number, "accepted": 100 * accepted}
    if not drafted:
        return {**row, "top": 100 * accepted, "says": f"{100 * accepted:.0f}{sign}"}
    part = f"{100 * accepted / drafted:.0f}{sign}"
    return {**row, "drafted": 100 * drafted, "top": 100 * drafted, "says": part}
