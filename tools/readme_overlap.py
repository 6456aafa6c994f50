"""The table of docs/kernels.md on what hiding the host's work would gain."""

from __future__ import annotations

from typing import Any


def overlapped(result: dict[str, Any]) -> str:
    """A step with and without its scheduling behind the model, by cores and threads."""
    lines = [
        "| cores | threads of the model | a step, ms | with so much more work in line "
        "| with it behind the model | gain |",
        "|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        cells = [_spread(case[name], 2) for name in ("alone_ms", "in_line_ms", "hidden_ms")]
        cells.append(_spread(case["gain"], 3))
        lines.append(f"| {case['cores']} | {case['threads']} | {' | '.join(cells)} |")
    first = result["cases"][0]
    told = first["conditions"]
    lines += [
        "",
        f"{told['date']}, {told['model']} model, {told['dtype']}, {told['batch']} at once, "
        f"{told['processor']}, offline; median (least-greatest) of {first['gain']['n']} "
        "rounds of 100 steps of each kind in turn. The work is a second scheduler's, "
        f"{first['host_ms']['median']:.2f} ms.",
    ]
    return "\n".join(lines)


def _spread(figure: dict[str, float], digits: int) -> str:
    low, middle, high = (f"{figure[name]:.{digits}f}" for name in ("min", "median", "max"))
    return f"{middle} ({low}-{high})"
