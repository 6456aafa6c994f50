"""Hardware sheets in one picture: how fast each device reads, and how fast it computes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import altair as alt

from penstock.predict.sheet import Device
from penstock.report import look
from penstock.report.look import Chart

_RATIOS = (30, 100, 300, 1000)  # operations a byte


def write_png(devices: Iterable[Device], path: Path) -> None:
    """Write the picture.

    Raises `ValueError` where no sheet has a rate, and `OSError` where `path` cannot be written.
    """
    known = list(devices)
    drawn = balance([one for one in known if one.matmul_flops("bf16")], 760, 520)
    left_out = ", ".join(one.name for one in known if not one.matmul_flops("bf16"))
    title = look.head(
        "What hardware reads and computes",
        [
            "Published peaks of one device, dense. On a dashed line a device does as many 16-bit "
            "operations as it says for each byte read:",
            "decoding with about that many sequences (of short context, weights in 16 bits) "
            "would keep both busy.",
            *([f"Without a published rate of operations: {left_out}."] if left_out else []),
        ],
    )
    picture = look.on_paper(look.bare(drawn).properties(title=title))
    path.write_bytes(look.png(picture))


def balance(devices: Iterable[Device], width: int, height: int) -> Chart:
    """Operations/s against bytes/s, with lines of equal operations a byte.

    Raises `ValueError` where no device is given.
    """
    named: dict[tuple[float, float], list[str]] = defaultdict(list)
    for one in devices:
        at = one.read_bytes_per_s / 1e9, (one.matmul_flops("bf16") or 0.0) / 1e12
        named[at].append(one.name)
    if not named:
        raise ValueError("there is no picture: no sheet has a rate of operations in 16 bits.")
    points = [{"x": x, "y": y, "name": ", ".join(names)} for (x, y), names in named.items()]
    x = alt.X("x:Q", title="reads, GB/s", **look.axis(points, "x"))
    y = alt.Y("y:Q", title="computes in 16 bits, Tflop/s", **look.axis(points, "y"))
    shown = alt.Chart(look.data(points)).encode(x=x, y=y)
    return look.dress(
        alt.layer(
            *_ratios(points, x, y),
            shown.mark_point(size=45, filled=True, color=look.ACCENT[0], opacity=1),
            shown.mark_text(align="left", dx=7, dy=4, fontSize=11, color=look.INK[0]).encode(
                text="name:N"
            ),
        ),
        width,
        height,
    )


def _ratios(points: list[dict[str, Any]], x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Dashed lines of equal operations a byte, within what the points span."""
    low, high = (bound(one["x"] for one in points) for bound in (min, max))
    least, most = (bound(one["y"] for one in points) for bound in (min, max))
    rows, names = [], []
    for ratio in _RATIOS:
        # y in T/s is ratio x (x in G/s) / 1000.
        start, end = max(low, 1000 * least / ratio), min(high, 1000 * most / ratio)
        if start < end:
            rows += [{"x": at, "y": ratio * at / 1000, "ratio": ratio} for at in (start, end)]
            names.append({"x": end, "y": ratio * end / 1000, "name": f"{ratio:,} a byte"})
    grey = look.MUTED[0]
    lines = alt.Chart(look.data(rows)).encode(x=x, y=y, detail="ratio:N")
    text = alt.Chart(look.data(names)).encode(x=x, y=y, text="name:N")
    return [
        lines.mark_line(strokeDash=[4, 3], strokeWidth=1, color=grey),
        text.mark_text(align="right", dx=-4, dy=-6, fontSize=10, color=grey),
    ]
