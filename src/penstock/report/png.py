"""The latency-throughput curve as one picture, for a README or a slide."""

from __future__ import annotations

from pathlib import Path

import vl_convert as vlc

from penstock.record.run import Run
from penstock.report import figures, look
from penstock.report.view import View


def write(run: Run, path: Path) -> None:
    """Write user speed against throughput, with the limit, as a PNG of 1,440 pixels' width.

    Raises `ValueError` when no operating point has both figures, and `OSError`
    where `path` cannot be written.
    """
    chart = figures.curve(View(run), width=720, height=400)
    if chart is None:
        raise ValueError(
            "this run has no picture: no operating point has both an output throughput and a "
            "user speed; see the errors in its report."
        )
    on_paper = chart.properties(background=look.COLOURS["paper"][0], padding=24)
    path.write_bytes(vlc.vegalite_to_png(on_paper.to_json(), scale=2))
