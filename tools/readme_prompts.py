"""Tables and picture of docs/prompt_compression.md, from benchmarks/results/prompt_*.json."""

from pathlib import Path
from typing import Any

import altair as alt

from penstock.report import look

CASES = {
    "continuation": "what follows held-out source",
    "recall": "its first lines, asked for at its end",
}


def breakeven(result: dict[str, Any]) -> str:
    """Predicted beside measured: shares by length, and lengths by share."""
    rows = [
        "| prompt, tokens | full prefill, s: predicted (measured) | judging, s | break-even share: "
        "predicted | measured | error |",
        "|---|---|---|---|---|---|",
    ]
    for tokens, found in result["most_kept"].items():
        full, rating = (_pair(found[name]) for name in ("full_s", "rating_s"))
        rows.append(f"| {int(tokens):,} | {full} | {rating} | {_shares(found)} |")
    rows += ["", "| share kept | pays from, tokens: predicted | measured | error |",
             "|---|---|---|---|"]  # fmt: skip
    for share, found in result["least_tokens"].items():
        cells = [_or(found[name], "{:,.0f}") for name in ("predicted", "measured")]
        rows.append(
            f"| {float(share):.0%} | {' | '.join(cells)} | {_or(found['error'], '{:+.1%}')} |"
        )
    told = result["conditions"]
    rows += [
        "",
        f"{told['date']}, {told['model']} shape ({told['precision']}) judged by {told['scorer']} "
        f"({told['scorer_precision']}), random weights, {told['threads']} threads, "
        f"{told['processor']}; {told['prompts']}; medians of {told['rounds']} rounds in turn.",
    ]
    return "\n".join(rows)


def _pair(found: dict[str, float]) -> str:
    return f"{found['predicted']:.3f} ({found['measured']:.3f})"


def _shares(found: dict[str, Any]) -> str:
    cells = [_or(found[name], "{:.1%}") for name in ("predicted", "measured")]
    return f"{' | '.join(cells)} | {_or(found['error'], '{:+.1%}')}"


def _or(value: float | None, form: str) -> str:
    return "none" if value is None else form.format(value)


def worth(result: dict[str, Any], case: str) -> str:
    """How much loss rises, by way and share kept."""
    known = result["summary"][case]
    ways = [name for name in known if name != "whole"]
    keeps = list(known[ways[0]])
    rows = [
        f"| what stays | {' | '.join(f'{float(keep):.0%} kept' for keep in keeps)} |",
        f"|---|{'---|' * len(keeps)}",
    ]
    for way in ways:
        cells = []
        for keep in keeps:
            found = known[way][keep]
            low, high = found["rise_ci95"]
            cells.append(f"{found['rise']:+.3f} ({low:+.3f} to {high:+.3f})")
        rows.append(f"| {way} | {' | '.join(cells)} |")
    told = result["conditions"]
    rows += [
        "",
        f"{told['date']}, embedded model ({told['parameters'] / 1e6:.1f} M parameters) judged by "
        f"its draft; {told['texts']} held-out texts of {told['context_tokens']:,} tokens; loss of "
        f"{CASES[case]}, {known['whole']:.3f} nats a token with all of it; the rise, with its 95 % "
        "interval over texts.",
    ]
    return "\n".join(rows)


def picture(result: dict[str, Any], path: Path) -> None:
    """Draw the loss against the tokens kept, for both cases."""
    panels = []
    for case, title in CASES.items():
        known = result["summary"][case]
        rows = [
            {"way": way, "kept": 100 * found["share"], "rise": found["rise"],
             "low": found["rise_ci95"][0], "high": found["rise_ci95"][1]}
            for way in SHOWN
            for found in known[way].values()
        ]  # fmt: skip
        base = alt.Chart(look.data(rows)).encode(
            x=alt.X("kept:Q", title="% of the tokens kept", scale=alt.Scale(zero=False)),
            color=alt.Color(
                "way:N",
                title=None,
                scale=alt.Scale(domain=list(SHOWN), range=list(SHOWN.values())),
                legend=alt.Legend(orient="top", columns=3, labelLimit=0),
            ),
        )
        lines = base.mark_line(strokeWidth=2, point=True).encode(y=alt.Y("rise:Q", title=None))
        bars = base.mark_rule(opacity=0.5).encode(y="low:Q", y2="high:Q")
        chart = alt.layer(bars, lines, title=f"rise of the loss, nats a token: {title}")
        panels.append(look.bare(look.dress(chart, 560, 320)))
    path.write_bytes(look.png(look.on_paper(alt.vconcat(*panels, spacing=28))))


SHOWN = {
    "surprise, lines": look.ACCENT[0],
    "surprise, tokens": "#63a9b8",
    "random lines": look.MUTED[0],
    "stop words first": "#c4a15a",
    "cut the beginning": look.OTHER[0],
    "cut the end": look.WARN[0],
}
