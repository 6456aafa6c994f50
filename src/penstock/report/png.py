"""A run in one picture, for a README or a slide: what the page shows first, on paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt

from penstock.record.run import Run
from penstock.record.sentences import claimable
from penstock.report import figures, look, table
from penstock.report.html import DISTRIBUTIONS, title
from penstock.report.view import OperatingPoint, View

_WIDTH, _HEIGHT = 440, 250  # of a figure without its labels, in pixels of the page
_BESIDE = 56  # between two figures, which is room for labels
_WHOLE = 2 * _WIDTH + 150  # both with their labels
_LINE = 150  # characters under the title


def write(run: Run, path: Path) -> None:
    """Write curve, latency distributions and the course of the best point as one PNG.

    Under the title stand the run's verdict and sentences; pixels are doubled for
    fine screens. Raises `ValueError` when no request finished, and `OSError`
    where `path` cannot be written.
    """
    view = View(run)
    if not any(one.done for one in view.points):
        raise ValueError(
            "this run has no picture: no request finished; see the errors in its report."
        )
    rows = [alt.hconcat(*pair, spacing=_BESIDE) for pair in _pairs(view)]
    drawn = look.on_paper(
        alt.vconcat(*rows, look.bare(_course(view)), spacing=28, title=_head(run))
    )
    path.write_bytes(look.png(drawn))


def _pairs(view: View) -> Iterator[list[Any]]:
    size = {"width": _WIDTH, "height": _HEIGHT}
    quality = (figures.accuracy(view, **size), figures.right_per_second(view, **size))
    overview = (figures.curve(view, **size), figures.waits(view, **size)) if view.curved else ()
    spread = (
        chart.properties(title=f"{DISTRIBUTIONS[key]}: share of all within it")
        for key in ("ttft_from_schedule", "tpot")
        if (chart := figures.distribution(view.shown, key, **size)) is not None
    )
    for row in (quality, overview, spread):
        if pair := [look.bare(chart) for chart in row if chart is not None]:
            yield pair


def _course(view: View) -> look.Chart:
    one = best(view)
    drawn = figures.timeline(one.courses[0], one.colour, view.run.series, _WHOLE, _HEIGHT)
    return drawn.properties(title=f"{table.heading(one.summary)}, over time; shaded: the window")


def best(view: View) -> OperatingPoint:
    """The operating point of which the summary's second sentence speaks."""
    worked = [one for one in view.points if one.done]
    claimed = claimable([one.summary for one in worked])
    return max(
        (one for one in worked if one.summary in claimed),
        key=lambda one: one.summary["output_throughput"]["value"] or 0.0,
    )


def _head(run: Run) -> alt.TitleParams:
    verdict = run.summary["verdict"]
    codes = ", ".join(dict.fromkeys(reason["code"] for reason in verdict["reasons"]))
    said = [f"INVALID ({codes}): these figures should not be claimed." if codes else "VALID."]
    said += run.summary["sentences"]
    return look.head(
        title(run), look.wrapped(said, _LINE), fontSize=22, subtitleFontSize=13, offset=20
    )
