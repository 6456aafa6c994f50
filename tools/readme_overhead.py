"""The table of docs/architecture.md on what techniques cost whoever has them switched off."""

from __future__ import annotations

from typing import Any

_LANES = ("before", "now")


def switched_off(result: dict[str, Any]) -> str:
    """The project before its techniques, and now, by requests at once."""
    cells, told, commits = result["cells"], result["conditions"], result["commits"]
    lines = [
        "| at once | a step before, ms | now | of that outside the model before, ms | now "
        "| more outside the model, of a step | speed now over before | the same tree twice |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for batch in sorted(cells, key=int):
        cell = cells[batch]
        times = [f"{cell[of][lane]:.3f}" for of in ("step_ms", "host_ms") for lane in _LANES]
        share = {name: f"{100 * figure:+.2f}" for name, figure in cell["more_host"].items()}
        more = f"{share['share']} % ({share['low95']} to {share['high95']})"
        speeds = [_ratio(cell[of]) for of in ("speed", "method")]
        lines.append(f"| {batch} | {' | '.join([*times, more, *speeds])} |")
    lowest = min(cell["speed"]["low95"] for cell in cells.values())
    rounds = min(cell["rounds"] for cell in cells.values())
    least, most = told["output"]
    lines += [
        "",
        f"With 95 % intervals; the lowest bound of the speed is {lowest:.3f}. Sources of commits "
        f"{commits['before']} and {commits['now']}; {told['date']}, {told['model']} model, "
        f"{told['dtype']}, threads: {told['threads']}, {told['processor']}, offline, greedy, "
        f"{told['prompt']} tokens in, {least} to {most} out, whoever ends followed by another. "
        f"{rounds} rounds of new processes, which take turns after {told['turn']} steps, "
        f"{told['seconds']:g} s each in a round; bootstrapped over rounds.",
    ]
    return "\n".join(lines)


def _ratio(found: dict[str, float]) -> str:
    return f"{found['ratio']:.3f} ({found['low95']:.3f}-{found['high95']:.3f})"
