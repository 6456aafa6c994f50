"""The table of docs/speculation.md."""

from __future__ import annotations

from typing import Any

NAMES = {"lookup": "lookup", "suffix": "suffix", "draft": "draft model"}


def accepted(result: dict[str, Any]) -> str:
    """How often guesses came true, by source and position."""
    told = result["acceptance"]
    lines = [
        "| | tokens a step | steps with a guess | 1st right | 2nd | 3rd | 4th | 6th | 8th |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for text in ("greedy", "drawn"):
        for source, name in NAMES.items():
            figures = told[text][source]
            rates = figures["acceptance_by_position"]
            each = [f"{rates[i]:.0%}" if i < len(rates) else "" for i in (0, 1, 2, 3, 5, 7)]
            lines.append(
                f"| {name}, {text} | {figures['tokens_per_step']:.2f} | "
                f"{figures['with_an_offer']:.0%} | {' | '.join(each)} |"
            )
    lines.append("")
    lines.append(
        f"{told['conditions'][0].upper()}{told['conditions'][1:]}; greedy, and drawn at "
        "temperature 1; as much guessed as there was to guess. A position's rate is of guesses "
        "whose predecessors came true."
    )
    return "\n".join(lines)


def replayed(result: dict[str, Any]) -> str:
    """What the greedy acceptance is worth at a real size."""
    told = result["replayed"]
    rows, conditions = told["rows"], told["conditions"]
    modes = list(rows[0]["speedup"])
    lines = [
        f"| at once | tok/s without | {' | '.join(modes)} |",
        f"|---|---|{'---|' * len(modes)}",
    ]
    for row in rows:
        ratios = [row["speedup"][mode] for mode in modes]
        each = [f"{r['ratio']:.2f} ({r['low95']:.2f}-{r['high95']:.2f})" for r in ratios]
        plain = row["plain_tokens_per_s"]["median"]
        lines.append(f"| {row['batch']} | {plain:,.0f} | {' | '.join(each)} |")
    times = ", ".join(
        f"{target:.0f} and {draft:.1f} ms at {n}" for n, (target, draft) in told["step_ms"].items()
    )
    lines.append("")
    lines.append(
        f"Speed over no guesses, *replayed* acceptance: {conditions['date']}, shape "
        f"{conditions['model']} with {conditions['draft']}, random weights, "
        f"{conditions['weights']} weights, KV int8, threads: {conditions['threads']}, "
        f"{conditions['processor']}, offline, {conditions['prompt']} tokens in, "
        f"{conditions['output']} out; geometric mean of interleaved pairs and its 95 % interval. "
        f"A step of the model and one of its draft, by rows: {times}."
    )
    return "\n".join(lines)


def bounded(result: dict[str, Any]) -> str:
    """What automatic guessing may lose, step beside step."""
    cells, conditions = result["cells"], result["conditions"]
    names = list(dict.fromkeys(name for row in cells.values() for name in row))
    lines = [f"| at once | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for batch in sorted(cells, key=int):
        found = [cells[batch].get(name) for name in names]
        each = [r and f"{r['ratio']:.3f} ({r['low95']:.3f}-{r['high95']:.3f})" for r in found]
        lines.append(f"| {batch} | {' | '.join(text or '' for text in each)} |")
    lowest, name, batch = min(
        (row[name]["low95"], name, batch)
        for batch, row in cells.items()
        for name in row
        if name != "none"
    )
    lines.append("")
    lines.append(
        f"Speed of automatic guessing over none and its 95 % interval, *replayed* acceptance; the "
        f"lowest bound is {lowest:.3f} ({name}, {batch} at once). {conditions['date']}, shape "
        f"{conditions['model']} with {conditions['draft']}, random weights, "
        f"{conditions['weights']} weights, KV {conditions['kv']}, threads: "
        f"{conditions['threads']}, {conditions['processor']}, offline, {conditions['prompt']} "
        f"tokens in, {conditions['output']} out; turning: after {conditions['lead']} tokens of "
        f"them. Blocks of {conditions['steps']} decode steps in turn, {conditions['seconds']:g} s "
        f"a cell or whole texts; bootstrapped."
    )
    return "\n".join(lines)
