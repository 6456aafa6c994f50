"""One HTML file that holds the whole report and needs nothing else.

The figures are static SVG, drawn when the file is written, each twice: for a
wide screen and for a phone, since a picture that is only scaled down cannot
be read. The alternative, Vega's JavaScript, would add 0.9 MB to each file
for tooltips, while every number a tooltip could show stands in the table.
Without any script the page opens at once, prints, survives mail and archives,
and may forbid scripts altogether, so that nothing a measured server says can
run. Colours are swapped in the style sheet for dark mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from penstock.record.metrics import errors_by_class
from penstock.record.run import Run
from penstock.report import figures, look, table

_SIZES = {"wide": (560, 300), "narrow": (350, 260)}
_DISTRIBUTIONS = {
    "ttft_from_schedule": "Time to first token, from schedule",
    "tpot": "Time per output token",
    "itl": "Gap between events",
    "e2e": "Whole answer, from schedule",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure drawn for each size of screen."""

    title: str
    drawings: dict[str, Markup]


def write(run: Run, path: Path) -> None:
    """Write the report of a summarised run to `path`. Raises `OSError` where it cannot."""
    path.write_text(render(run), encoding="utf-8")


def render(run: Run) -> str:
    """The report as one self-contained HTML page."""
    summary = run.summary
    points = summary["points"]
    environment = Environment(
        loader=PackageLoader("penstock.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        summary=summary,
        title=title(run),
        points=points,
        table=table,
        sections=table.sections(points),
        overview=_drawn(
            _figure("One user's speed against throughput", "curve", figures.curve, summary),
            _figure("The wait against throughput", "waits", figures.waits, summary),
        ),
        distributions=_drawn(
            *(
                _figure(name, key, figures.distribution, run, key)
                for key, name in _DISTRIBUTIONS.items()
            )
        ),
        courses=_drawn(
            *(
                _figure(table.heading(points[i]), f"course{i}", figures.timeline, point, colour)
                for i, (point, colour) in enumerate(look.coloured(run.points))
            ),
            _figure("First token against prompt length", "prompts", figures.prompts, run),
        ),
        errors=list(_errors(run)),
        palette=look.palette(len(points)),
    )


def title(run: Run) -> str:
    """What was measured, in a few words."""
    for known in (*(point.conditions for point in run.points), run.target):
        for name in ("model", "name", "url"):
            if known.get(name):
                return str(known[name])
    return "unknown target"


def _figure(
    title: str, name: str, draw: Callable[..., look.Chart | None], *of: Any
) -> Figure | None:
    drawings = {}
    for size, (width, height) in _SIZES.items():
        chart = draw(*of, width=width, height=height)
        if chart is None:
            return None
        drawings[size] = Markup(look.svg(chart, f"{name}-{size}", title))
    return Figure(title, drawings)


def _drawn(*parts: Figure | None) -> list[Figure]:
    return [part for part in parts if part is not None]


def _errors(run: Run) -> Iterable[dict[str, Any]]:
    """Each class of error at each point: how often, and one message as the target sent it."""
    for summarised in run.summary["points"]:
        records = [r for index in summarised["of"] for r in run.points[index].records]
        for name, count in summarised["errors"]["by_class"].items():
            example = next(r.error for r in records if name in errors_by_class([r]))
            yield {
                "load": table.heading(summarised),
                "name": name,
                "count": count,
                "example": (example or "")[:300],
            }
