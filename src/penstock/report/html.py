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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from penstock.record.metrics import errors_by_class
from penstock.record.run import Run
from penstock.report import figures, look, table
from penstock.report.view import OperatingPoint, View, featured

_SIZES = {"wide": (560, 300), "narrow": (350, 260)}
_CARDS = 4  # more are a table
_BESIDE = 6  # operating points in one table; more would not fit a page
DISTRIBUTIONS = {
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
    view = View(run)
    points = view.summaries
    return page(
        "report.html.jinja",
        summary=run.summary,
        title=title(run),
        view=view,
        points=points,
        cards=featured(points, _CARDS if len(points) <= _CARDS else 3),
        blocks=[
            (points[i : i + _BESIDE], table.sections(points[i : i + _BESIDE]))
            for i in range(0, len(points), _BESIDE)
        ],
        overview=list(_overview(view)),
        quality=drawn(
            figure("Right answers against samples", "accuracy", figures.accuracy, view),
            figure("Right answers per second", "right", figures.right_per_second, view),
        ),
        distributions=drawn(
            *(
                figure(name, key, figures.distribution, view.shown, key)
                for key, name in DISTRIBUTIONS.items()
            )
        ),
        courses=drawn(*(_course(view, one) for one in view.shown)),
        requests=drawn(
            figure("First token against prompt length", "prompts", figures.prompts, view.shown),
            figure("Whole answer against its length", "answers", figures.answers, view.shown),
        ),
        finished=sum(len(one.done) for one in view.shown),
        dots=figures.DOTS,
        errors=list(_errors(view)),
        palette=look.palette(len(points)),
    )


def page(template: str, **values: Any) -> str:
    """A page from a template of this package; everything in it is escaped."""
    environment = Environment(
        loader=PackageLoader("penstock.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(table=table, **values)


def title(run: Run) -> str:
    """What was measured, in a few words."""
    for known in (*(point.conditions for point in run.points), run.target):
        for name in ("model", "name", "url"):
            if known.get(name):
                return str(known[name])
    return "unknown target"


def _overview(view: View) -> Iterator[Figure]:
    found = table.capacity(view.summary)
    if view.curved:
        yield from drawn(
            figure("One user's speed against throughput", "curve", figures.curve, view),
            figure("The wait against throughput", "waits", figures.waits, view),
        )
    yield from drawn(
        None
        if found is None
        else figure("Capacity within the limits", "capacity", figures.capacity, found),
        *(
            figure(f"{slo} as the load rises", f"slo{i}", figures.kept, view, slo)
            for i, slo in enumerate(view.run.slos)
            if len(view.summaries) > 1
        ),
        figure("What tokens cost", "cost", figures.cost, view),
    )


def _course(view: View, one: OperatingPoint) -> Figure | None:
    """Of several repeats the first: they are to be alike, and the table says how far."""
    course = one.courses[0]
    heading = table.heading(one.summary)
    if len(one.courses) > 1:
        heading += f", first of {len(one.courses)} repeats"
    name = f"course{one.index}"
    return figure(heading, name, figures.timeline, course, one.colour, view.run.series)


def figure(
    title: str, name: str, draw: Callable[..., look.Chart | None], *of: Any
) -> Figure | None:
    """Draw in each size; `name` is unique on the page. None where there is nothing to draw."""
    drawings = {}
    for size, (width, height) in _SIZES.items():
        chart = draw(*of, width=width, height=height)
        if chart is None:
            return None
        drawings[size] = Markup(look.svg(chart, f"{name}-{size}", title))
    return Figure(title, drawings)


def drawn(*parts: Figure | None) -> Sequence[Figure]:
    """The figures for which there was something to draw."""
    return [part for part in parts if part is not None]


def _errors(view: View) -> Iterator[dict[str, Any]]:
    """Each class of error at each point: how often, and one message as the target sent it."""
    for one in view.points:
        records = [r for course in one.courses for r in course.point.records]
        for name, count in one.summary["errors"]["by_class"].items():
            example = next(r.error for r in records if name in errors_by_class([r]))
            yield {
                "load": table.heading(one.summary),
                "name": name,
                "count": count,
                "example": (example or "")[:300],
            }
