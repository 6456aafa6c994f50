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
