"""The figures of docs/reasoning.md: shared prefixes, and what more samples buy."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.plan.reason.trade import Trade
from penstock.report import reason

_WAYS = {
    "shared": "prompt's KV computed once, read once",
    "cached": "the same, prompt in the cache beforehand",
    "apart": "computed once, read by each",
    "unshared": "computed, kept and read by each",
}


def samples(result: dict[str, Any]) -> str:
    """What `penstock reason` said: its sentences, tables and conditions."""
    found = msgspec.convert(result, Trade)
    lines = [f"- {sentence}" for sentence in reason.sentences(found)]
    for name, columns, rows in reason.tables(found):
        lines += ["", f"**{name}**", "", f"| samples | {' | '.join(columns)} |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", f"{reason.assumed(found)} {reason.conditions(found)}"])


def prefixes(result: dict[str, Any]) -> str:
    """What sharing a prompt among its samples is worth in time and memory."""
    told, ratios = result["conditions"], result["throughput_ratios"]
    rows = [
        "| | tokens/s | all have a token after, s | then, tokens/s | KV held at most, MB "
        "| process at most, GB |",
        "|---|---|---|---|---|---|",
    ]
    for way, name in _WAYS.items():
        f = result["ways"][way]
        rows.append(
            f"| {name} | {_range(f['tokens_per_s'], 0)} "
            f"| {_range(f['seconds_until_all_have_a_token'], 1)} "
            f"| {_range(f['decode_tokens_per_s'], 0)} | {f['kv_bytes_peak'] / 1e6:,.0f} "
            f"| {f['resident_bytes_peak'] / 1e9:.1f} |"
        )
    return "\n".join(
        [
            f"Sharing gives **{_range(ratios['unshared over shared'], 1)} times** the throughput, "
            f"{_range(ratios['unshared over cached'], 1)} times with the prompt cached. Of that, "
            f"reading the prefix once for all gives {_range(ratios['apart over shared'], 2)}, "
            f"and {_range(result['decode_ratio_of_the_cascade'], 2)} in decoding alone.",
            "",
            *rows,
            "",
            f"{told['date']}, {told['model']} ({told['parameters'] / 1e6:,.0f} M random weights, "
            f"{told['weights']}, KV {told['kv']}), threads: {told['threads']}, "
            f"{told['processor']}; {told['samples']} samples of a prompt of "
            f"{told['prompt_tokens']} tokens, {told['output_tokens']} tokens each, at once and "
            f"offline; median (least-greatest) of {ratios['unshared over shared']['n']} rounds, "
            "each way once a round, in processes of their own. The text is the same every time.",
        ]
    )


def _range(figure: dict[str, Any], digits: int) -> str:
    median, low, high = (f"{figure[k]:,.{digits}f}" for k in ("median", "min", "max"))
    return f"{median} ({low}-{high})"
