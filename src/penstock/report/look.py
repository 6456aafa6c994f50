"""How figures look: one accent, light and dark, and Vega-Lite turned into inline SVG."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, TypeVar

import altair as alt
import vl_convert as vlc

from penstock.report.pack import pack

Chart = alt.TopLevelMixin
T = TypeVar("T")

# Light and dark value of every colour. A figure is drawn with the light ones;
# the page's style sheet replaces each exact value in dark mode, which is why
# no two may be equal.
COLOURS = {
    "paper": ("#fcfbf8", "#141618"),
    "ink": ("#1d1e1c", "#e9e7e2"),
    "muted": ("#6c6b66", "#a09e97"),
    "grid": ("#e5e3dc", "#303336"),
    "accent": ("#0c6a7d", "#58c4d8"),
    "shade": ("#e3eff1", "#1b2f35"),  # the steady window
    "warn": ("#b3402a", "#ff9b84"),  # failed requests, limits that are broken
    "other": ("#b86a00", "#f2b35c"),  # the other run of a comparison
}
INK, MUTED, GRID, ACCENT = (COLOURS[name] for name in ("ink", "muted", "grid", "accent"))
SHADE, WARN, OTHER = (COLOURS[name] for name in ("shade", "warn", "other"))
_FAINT = ("#63a9b8", "#478b9b")  # the lightest load ...
_STRONG = ("#093f4c", "#b4ecf6")  # ... to the heaviest
ROUND = ",~r"  # numbers on axes: thousands separated, no trailing zeros
FONT = "Inter, Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"


def ramp(count: int) -> list[tuple[str, str]]:
    """`count` colours (light, dark) from the faintest to the strongest: more load, more ink."""
    if count == 1:
        return [ACCENT]
    steps = [i / (count - 1) for i in range(count)]
    return [(_mix(_FAINT[0], _STRONG[0], t), _mix(_FAINT[1], _STRONG[1], t)) for t in steps]


def _mix(low: str, high: str, share: float) -> str:
    pairs = zip(bytes.fromhex(low[1:]), bytes.fromhex(high[1:]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def palette(count: int) -> list[tuple[str, str, str]]:
    """Every colour of a page about `count` operating points: name, light, dark."""
    named = [(name, light, dark) for name, (light, dark) in COLOURS.items()]
    return named + [(f"series-{i}", *both) for i, both in enumerate(ramp(count))]


def data(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Rows for a chart, as text: Altair would copy lists anew with every layer it adds."""
    return alt.InlineData(values=json.dumps(rows), format=alt.JsonDataFormat(type="json"))


def dress(chart: Any, width: int, height: int) -> Chart:
    """Give a chart our typography and its total size in pixels, labels included."""
    return dressed(
        chart.properties(
            width=width,
            height=height,
            autosize=alt.AutoSizeParams(type="fit", contains="padding"),
        )
    )


def dressed(chart: Any) -> Chart:
    """Give a chart our typography."""
    styled: Chart = (
        chart.properties(
            padding={"left": 2, "right": 12, "top": 4, "bottom": 2}, background="transparent"
        )
        .configure(font=FONT, aria=False)
        .configure_view(stroke=None)
        .configure_axis(
            domainColor=GRID[0],
            gridColor=GRID[0],
            tickColor=GRID[0],
            labelColor=MUTED[0],
            titleColor=MUTED[0],
            labelFontSize=11,
            titleFontSize=11,
            titleFontWeight="normal",
            labelPadding=4,
            titlePadding=6,
        )
        .configure_title(
            anchor="start", frame="group", color=MUTED[0], fontSize=11, fontWeight="normal"
        )
    )
    return styled


def bare(chart: Any) -> Any:
    """A chart without what only a whole picture may have, to be put beside others in one."""
    part = chart.copy()
    for name in ("config", "padding", "background", "autosize"):
        setattr(part, name, alt.Undefined)
    return part


def head(text: str, lines: list[str], **sizes: int) -> alt.TitleParams:
    """A picture's title and the lines under it.

    `sizes` are those of Vega's titles, in pixels, where they are not the usual ones.
    """
    usual = {"fontSize": 20, "subtitleFontSize": 12, "subtitlePadding": 8, "offset": 18}
    style: dict[str, Any] = usual | sizes
    return alt.TitleParams(
        text=text,
        subtitle=lines,
        color=INK[0],
        fontWeight="bold",
        subtitleColor=MUTED[0],
        **style,
    )


def wrapped(sentences: Iterable[str], width: int) -> list[str]:
    """Lines of at most `width` characters; every sentence begins one."""
    return [line for sentence in sentences for line in textwrap.wrap(sentence, width)]


def on_paper(chart: Any) -> Chart:
    """Bare charts in one picture, in our typography, with a margin and a background."""
    drawn: Chart = dressed(chart).properties(background=COLOURS["paper"][0], padding=24)
    return drawn


def svg(chart: Chart, name: str, title: str) -> str:
    """The chart as an SVG element to be put into a page; `name` is unique on that page."""
    drawn = vlc.vegalite_to_svg(chart.to_json())
    # Namespaces are for stand-alone files. Ids must not clash between figures.
    drawn = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", drawn)
    drawn = re.sub(r'(id="|url\(#)(\w+)', rf"\g<1>{name}-\g<2>", drawn)
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def coloured(points: Sequence[T]) -> Iterator[tuple[T, str]]:
    """Each operating point with the colour it is drawn in."""
    return zip(points, (light for light, _ in ramp(len(points))), strict=True)


def in_unit(rows: Sequence[dict[str, Any]], *keys: str, unit: str | None = None) -> str:
    """Turn the seconds under `keys` into milliseconds, unless one is a second or more.

    Returns the unit, which is the given one where there is one.
    """
    longest = max((row[key] for row in rows for key in keys), default=0.0)
    unit = unit or ("ms" if longest < 1 else "seconds")
    if unit == "ms":
        for row in rows:
            row.update({key: row[key] * 1000 for key in keys})
    return unit


def axis(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Scale and axis for positive values: logarithmic once they spread threefold.

    Values that are nearly equal are shown so: the scale spans at least a fifth of them.
    """
    values = [row[key] for row in rows]
    low, high = min(values) / 1.1, max(values) * 1.2
    ticks = _log_ticks(low, high)
    if low > 0 and high / low > 3 and len(ticks) > 1:
        return {
            "scale": alt.Scale(type="log", domain=[low, high], nice=False),
            "axis": alt.Axis(values=ticks, format=ROUND),
        }
    alike, middle = max(values) < 1.2 * min(values), (min(values) + max(values)) / 2
    domain = [0.9 * middle, 1.1 * middle] if alike else alt.Undefined
    return {
        "scale": alt.Scale(zero=False, nice=True, domain=domain),
        "axis": alt.Axis(tickCount=5, format=ROUND),
    }


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten within [low, high]; over three decades only 1."""
    steps = (1, 2, 5) if high <= 1000 * low else (1,)
    every = (step * 10.0**exponent for exponent in range(-9, 10) for step in steps)
    return [tick for tick in every if low <= tick <= high]


def png(chart: Chart) -> bytes:
    """A chart as PNG, its pixels doubled for fine screens."""
    return pack(vlc.vegalite_to_png(chart.to_json(), scale=2))
