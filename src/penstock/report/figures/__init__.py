"""The figures of a run as Vega-Lite charts, each sized for the place it is put in.

Nothing here computes a metric: values come from the summary or from
`penstock.record.metrics`. What would be too many marks is thinned, never the
data a number is taken from.
"""

from __future__ import annotations

from penstock.report.figures.course import timeline
from penstock.report.figures.curve import cost, curve, waits
from penstock.report.figures.limits import capacity, kept
from penstock.report.figures.quality import accuracy, right_per_second
from penstock.report.figures.requests import DOTS, answers, distribution, prompts

__all__ = [
    "DOTS",
    "accuracy",
    "answers",
    "capacity",
    "cost",
    "curve",
    "distribution",
    "kept",
    "prompts",
    "right_per_second",
    "timeline",
    "waits",
]
