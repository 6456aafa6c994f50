"""The README's table of our engine beside others on the same CPU."""

from __future__ import annotations

from typing import Any

# Names of figures, and how they are shown: unit, factor, digits.
FIGURES = {
    "ttft_s": ("first token, ms", 1e3, 0),
    "decode_tokens_per_s": ("decode, tokens/s", 1.0, 1),
    "tokens_per_s": ("tokens/s", 1.0, 0),
}


def peers(result: dict[str, Any]) -> str:
    """One row for each figure of each match, by workload and class of weights."""
    rows = [
        "| load | weights | | Penstock (share of its limit) | against | it (share of its limit) "
        "| ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    order = sorted(result["matches"], key=lambda m: (m["workload"], m["class"]))
    for match in order:
        ours, theirs = match["sides"]
        for name, (unit, factor, digits) in FIGURES.items():
            mine, other = (side.get("figures", {}).get(name) for side in (ours, theirs))
            if mine is None or other is None:
                continue
            lead = mine["median"] / other["median"]
            if name == "ttft_s":
                lead = 1 / lead
            rows.append(
                f"| {match['workload']} | {match['class']} | {unit} "
                f"| {_figure(mine, factor, digits)} "
                f"| {theirs['engine']} {theirs['setting']}, {_short(theirs['version'])} "
                f"| {_figure(other, factor, digits)} | {lead:.2f} |"
            )
    told = result["conditions"]
    rows += [
        "",
        f"{told['date']}, {told['hardware']}, {told['threads']} threads, model {told['model']} "
        f"(random weights), {told['rounds']} rounds in turn: median (least-greatest). A: one "
        "request, 128 tokens in and 128 out; B: 32 of those at once. A ratio above 1: ours is "
        f"better. The machine reads {told['rates']['read'] / 1e9:.0f} GB/s and does "
        f"{told['rates']['peak']['int8'] / 1e12:.2f} int8 TOP/s, measured at the start.",
    ]
    missing = "; ".join(
        f"{m['engine']} {m.get('setting') or ''}: {m['why']}" for m in result["not_measured"]
    )
    if missing:
        rows.append(f"Not measured: {missing}.")
    return "\n".join(rows)


def _figure(figure: dict[str, Any], factor: float, digits: int) -> str:
    median, low, high = (f"{factor * figure[k]:,.{digits}f}" for k in ("median", "min", "max"))
    share = figure.get("limit_fraction")
    return f"{median} ({low}-{high})" + (f", {100 * share:.0f} %" if share else "")


def _short(version: str) -> str:
    return version.split("-", maxsplit=1)[0]
