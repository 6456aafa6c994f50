"""A shortened prompt, drawn: what stayed, what it takes, what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from penstock.prompts.breakeven import Bill
from penstock.prompts.run import Course
from penstock.prompts.shorten import Piece
from penstock.report import look
from penstock.report.look import Chart
from penstock.report.terminal import literal

STEPS = 5  # shades of surprise
MOST = 6.0  # nats from which a token is as surprising as can be shown
_COLUMNS, _LINES = 100, 44  # of the picture of the text
_SIZE = 11  # of its type, in pixels; a character of it is 0.6 as wide


def step(piece: Piece) -> int:
    """The shade of a piece, 0 for the expected to `STEPS` - 1."""
    return min(STEPS - 1, int(piece.surprise / MOST * STEPS))


def text(pieces: Sequence[Piece], width: int, height: int) -> Chart:
    """The beginning of the prompt: shaded by surprise, what went struck through in grey."""
    cells = list(_cells(pieces))
    lines = 1 + max((cell["line"] for cell in cells), default=0)
    shades = [look.COLOURS["paper"][0], *(light for light, _ in look.ramp(STEPS - 1))]
    base = alt.Chart(look.data(cells)).encode(
        x=alt.X("from:Q", axis=None, scale=alt.Scale(domain=[0, _COLUMNS])),
        y=alt.Y("line:Q", axis=None, scale=alt.Scale(domain=[-0.6, lines - 0.4], reverse=True)),
    )
    shaded = base.mark_rect(height=13).encode(
        x2="to:Q",
        color=alt.Color("step:O", scale=alt.Scale(domain=list(range(STEPS)), range=shades)).legend(
            None
        ),
        opacity=alt.condition("datum.kept", alt.value(0.35), alt.value(0.0)),
    )
    words = base.mark_text(align="left", font="monospace", fontSize=_SIZE).encode(
        x="at:Q",
        text="text:N",
        color=alt.condition("datum.kept", alt.value(look.INK[0]), alt.value(look.MUTED[0])),
        opacity=alt.condition("datum.kept", alt.value(1.0), alt.value(0.55)),
    )
    struck = base.transform_filter("!datum.kept").mark_rule(strokeWidth=1, color=look.WARN[0])
    layers = alt.layer(shaded, words, struck.encode(x="at:Q", x2="to:Q", opacity=alt.value(0.7)))
    return look.dressed(layers.properties(width=width, height=height or 15 * lines))


def _cells(pieces: Sequence[Piece]) -> Iterator[dict[str, Any]]:
    """Where each run of characters stands in the picture."""
    line, column = 0, 0
    for piece in pieces:
        for index, part in enumerate(piece.text.split("\n")):
            if index:
                line, column = line + 1, 0
            part = literal(part.expandtabs(4))
            while part and line < _LINES:
                fits = part[: _COLUMNS - column]
                yield {
                    "line": line,
                    "from": column,
                    "to": column + len(fits),
                    "at": column + len(fits) - len(fits.lstrip()),  # a picture drops spaces
                    "text": fits.strip(),
                    "step": step(piece),
                    "kept": piece.kept,
                }
                part, column = part[len(fits) :], column + len(fits)
                if column >= _COLUMNS:
                    line, column = line + 1, 0
        if line >= _LINES:
            return


def times(course: Sequence[Course], tokens: int, width: int, height: int) -> Chart | None:
    """Seconds to the first token by the prompt's length, as it is and shortened first."""
    if not course:
        return None
    rows: list[dict[str, Any]] = []
    for point in course:
        first = point.times.score_s + point.times.short_s
        rows.append({"tokens": point.tokens, "s": point.times.full_s, "way": "as it is"})
        rows.append({"tokens": point.tokens, "s": first, "way": "shortened first"})
        if point.times.score_s:
            rows.append({"tokens": point.tokens, "s": point.times.score_s, "way": "reading alone"})
    unit = look.in_unit(rows, "s")
    names = list(dict.fromkeys(row["way"] for row in rows))
    colours = alt.Scale(domain=names, range=[look.OTHER[0], look.ACCENT[0], look.MUTED[0]])
    lines = (
        alt.Chart(look.data(rows))
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=24))
        .encode(
            x=alt.X("tokens:Q", title="tokens of the prompt", **look.axis(rows, "tokens")),
            y=alt.Y("s:Q", title=None, **look.axis(rows, "s")),
            color=alt.Color("way:N", scale=colours, title=None, legend=alt.Legend(orient="top")),
        )
    )
    here = alt.Chart(look.data([{"tokens": tokens}])).mark_rule(
        strokeDash=[4, 3], color=look.MUTED[0]
    )
    shown = course[0].tokens <= tokens <= course[-1].tokens
    layers = alt.layer(lines, here.encode(x="tokens:Q")) if shown else alt.layer(lines)
    title = f"predicted {unit} to the first token; dashed: this prompt"
    return look.dress(layers.properties(title=title), width, height)


def costs(bill: Bill | None, width: int, height: int) -> Chart | None:
    """What a million prompts cost, sent in each way."""
    if bill is None:
        return None
    ways = {"as it is": bill.whole, "shortened": bill.shortened}
    if bill.cached > bill.held:
        ways |= {"only what is not cached": bill.rest, "always in this way": bill.again}
    rows = [
        {"way": name, "cost": cost, "said": f"{cost:,.4g}", "loses": cost > bill.whole}
        for name, cost in ways.items()
    ]
    base = alt.Chart(look.data(rows)).encode(
        y=alt.Y("way:N", sort=None, title=None, axis=alt.Axis(ticks=False, domain=False)),
        x=alt.X("cost:Q", title=None, axis=alt.Axis(tickCount=5, format=look.ROUND)),
    )
    bars = base.mark_bar(height={"band": 0.55}).encode(
        color=alt.condition("datum.loses", alt.value(look.WARN[0]), alt.value(look.ACCENT[0]))
    )
    words = base.mark_text(align="left", dx=5, fontSize=11, color=look.INK[0])
    title = "a million such prompts, in the price's currency; red costs more than as it is"
    return look.dress(alt.layer(bars, words.encode(text="said:N"), title=title), width, height)
