"""Watts and joules per output token at an operating point, from counters of energy.

What was measured is what the counters count: whole devices, idle power, other
programs and the meter included, and nothing of the machine beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.record.run import Run
from penstock.record.series import Series, grown
from penstock.record.steady import Window

ENERGY = "energy"  # the name of the series


def power(
    watched: Sequence[Series], window: Window, output_throughput: float | None
) -> dict[str, Any] | None:
    """Mean power inside the window, and over output tokens/s; None where no counter was read.

    `watts` is of all devices together, None if one of them was not read from
    before the window to after it; `of` names them.
    """
    counters = [series for series in watched if series.name == ENERGY]
    if not counters:
        return None
    joules = [grown(series, window.start_ns, window.end_ns) for series in counters]
    known = [amount for amount in joules if amount is not None]
    watts = sum(known) / window.seconds if len(known) == len(joules) else None
    each = watts / output_throughput if watts is not None and output_throughput else None
    return {
        "watts": watts,
        "joules_per_output_token": each,
        "of": [series.source for series in counters],
    }


def energy_condition(run: Run) -> str:
    """Which devices' energy was counted, and what that leaves out; or why none was."""
    counted = [series.source for series in run.series if series.name == ENERGY]
    if not counted:
        why = run.target.get("energy")
        return f"not readable: {why}" if why else "not read"
    devices = ", ".join(counted)
    return f"{devices}: whole, with idle power and other programs; nothing else of the machine"
