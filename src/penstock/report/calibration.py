"""A calibration in the terminal, as JSON and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from penstock.predict.calibrate import Calibration
from penstock.report import look
from penstock.report.compare import paragraph
from penstock.report.figures import calibration as figures


class Shown(msgspec.Struct, frozen=True):
    """A parameter as it is shown: its cost's name, in words, and its value from the cost."""

    cost: str
    title: str
    unit: str
    scale: float = 1.0
    inverse: bool = False

    def value(self, cost: float) -> float:
        """The cost in the unit shown."""
        return 100 / cost if self.inverse else self.scale * cost


EFFICIENCIES = (
    Shown("read", "memory bandwidth, weights", "% of sheet", inverse=True),
    Shown("kv", "memory bandwidth, K and V", "% of sheet", inverse=True),
    Shown("compute", "matrix products", "% of sheet", inverse=True),
    Shown("attention", "attention of prompts", "% of sheet", inverse=True),
)
COSTS = (
    Shown("read", "reading the weights", "ms a step", 1e3),
    Shown("compute", "arithmetic", "µs a token", 1e6),
    Shown("kv", "K and V of decodes", "ns a token of context", 1e9),
    Shown("attention", "attention of prompts", "ns a pair", 1e9),
)
OVERHEADS = (
    Shown("sequence", "each sequence", "µs", 1e6),
    Shown("step", "each step", "ms", 1e3),
    Shown("request", "each request, beside steps", "ms", 1e3),
)


def parameters(made: Calibration) -> list[dict[str, Any]]:
    """Every fitted parameter with its 90 % interval, in the unit shown."""
    rows = []
    for shown in _shown(made):
        draws = [shown.value(getattr(draw, shown.cost)) for draw in made.fitted.draws]
        low, high = np.quantile(draws, [0.05, 0.95])
        rows.append(
            {
                "name": shown.cost,
                "title": shown.title,
                "unit": shown.unit,
                "value": shown.value(getattr(made.fitted.costs, shown.cost)),
                "interval": [float(low), float(high)],
            }
        )
    return rows


def _shown(made: Calibration) -> list[Shown]:
    """What was fitted."""
    if made.file.deployment is None:
        return [*COSTS, *OVERHEADS]
    deployment = made.file.deployment.deployment()
    shown = list(EFFICIENCIES)
    if deployment.model.is_moe:
        shown.append(
            Shown("experts_compute", "matrix products of experts", "% of sheet", 1.0, True)
        )
    if deployment.devices > 1:
        shown.append(Shown("link", "link between devices", "% of sheet", inverse=True))
    return [*shown, *OVERHEADS]


def as_json(made: Calibration) -> dict[str, Any]:
    """What `calibrate --json` prints: the file without its draws, parameters, errors."""
    file = msgspec.structs.replace(made.file, draws=[])
    return {"file": msgspec.to_builtins(file), "parameters": parameters(made), **made.file.fit}


def show(made: Calibration, out: Path | None, console: Console) -> None:
    """Print the parameters, the error on held-out time, and what to do with the file."""
    fitted = made.fitted
    named = made.file.deployment
    console.print()
    paragraph(
        console,
        f"{made.file.fit['source']}: {fitted.spans:,} spans of steps"
        + (f", {named.model} in {named.weights} on {named.device}." if named else "."),
    )
    console.print()
    console.print(_table(made))
    console.print()
    paragraph(
        console,
        f"Fitted to the first 70 % of the time, it is off by {fitted.held_out_error:.1%} of the "
        f"seconds of the rest ({fitted.bias:+.1%} in sum); 90 % intervals held "
        f"{fitted.coverage:.0%} of that part's blocks.",
    )
    if out is not None:
        paragraph(console, f"Written to {out}: give it to a fleet as steptime, or to plan.")
    else:
        paragraph(console, "Nothing was written: --out FILE.toml keeps it for fleets and plan.")


def _table(made: Calibration) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    grid.add_column("  fitted", no_wrap=True)
    for title in ("value", "90 % interval"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("unit")
    for row in parameters(made):
        low, high = row["interval"]
        grid.add_row(f"  {row['title']}", _number(row["value"]), _range(low, high), row["unit"])
    return grid


def _number(value: float) -> str:
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def _range(low: float, high: float) -> str:
    return f"{_number(low)} to {_number(high)}"


def write_png(made: Calibration, path: Path) -> None:
    """Write predicted against measured as one picture. Raises `OSError` where it cannot."""
    charts = [figures.agreement(made, 520, 380), figures.course(made, 520, 380)]
    fitted = made.fitted
    head = look.head(
        f"Step time fitted to {made.file.fit['source']}",
        [f"{fitted.spans:,} spans of steps; held-out error {fitted.held_out_error:.1%}"],
        subtitlePadding=3,
    )
    whole = alt.hconcat(*(look.bare(chart) for chart in charts), spacing=48, title=head)
    drawn = look.on_paper(whole.resolve_scale(color="independent"))
    path.write_bytes(look.png(drawn))
