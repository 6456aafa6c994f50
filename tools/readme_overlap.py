"""The table of docs/kernels.md on what hiding the host's work would gain."""

from __future__ import annotations

from typing import Any


def overlapped(result: dict[str, Any]) -> str:
    """A step with and without its scheduling behind the model, by model, cores and threads."""
    lines = [
        "| model | cores | threads of the model | a step, ms | drawing in it, ms "
        "| with so much more work in line | with it behind the model | gain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, cases in result.items():
        for case in cases:
            names = ("alone_ms", "sample_ms", "in_line_ms", "hidden_ms")
            cells = [_spread(case.get(name), 2) for name in names]
            cells.append(_spread(case["gain"], 3))
            lines.append(f"| {model} | {case['cores']} | {case['threads']} | {' | '.join(cells)} |")
    lines.append("")
    for model, (first, *_) in result.items():
        told = first["conditions"]
        lines.append(
            f"{model}: {told['date']}, {told['dtype']}, weights {told['weights']}, "
            f"KV {told['kv']}, {told['batch']} at once, {told['processor']}, offline; median "
            f"(least-greatest) of {first['gain']['n']} rounds of 100 steps of each kind in turn. "
            f"The work is a second scheduler's, {first['host_ms']['median']:.2f} ms.\n"
        )
    return "\n".join(lines).rstrip()


def _spread(figure: dict[str, float] | None, digits: int) -> str:
    """Median and range; nothing for what was not measured."""
    if figure is None:
        return ""
    low, middle, high = (f"{figure[name]:.{digits}f}" for name in ("min", "median", "max"))
    return f"{middle} ({low}-{high})"
