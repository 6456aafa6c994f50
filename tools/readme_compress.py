"""The tables of docs/compress.md, from benchmarks/results/compress_*.json."""

from typing import Any


def _lost(found: dict[str, Any]) -> str:
    ends = found["loss_over_original_ci95"]
    return f"{found['loss_over_original']:+.2%} ({ends[0]:+.2%} to {ends[1]:+.2%})"


def rounding(result: dict[str, Any]) -> str:
    """What each way of rounding loses, as it is and with outliers."""
    plain, planted = result["as it is"], result["with outliers"]
    rows = [
        "| weights | held-out loss over the original (95 %) | KL, nats | doctests right "
        "| with outliers: loss | KL | doctests |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in plain:
        cells = [
            cell
            for each in (plain[name], planted[name])
            for cell in (
                _lost(each),
                f"{each['kl_to_original_nats']:.5f}",
                f"{each['doctests_right']:.0%}",
            )
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    told = result["conditions"]
    return "\n".join(
        [
            *rows,
            "",
            f"{told['date']}, embedded model ({told['parameters'] / 1e6:.1f} M parameters), "
            f"{told['held_out_tokens']:,} held-out tokens, {told['doctests']} "
            f"doctests; calibration: {told['calibration']}; planted: {told['planted']}.",
        ]
    )


def pruning(result: dict[str, Any]) -> str:
    """Loss of each way, and speed of those that were timed."""
    speed = result.get("speed", {})
    rows = [
        "| taken out | weights left in layers | held-out loss over the original (95 %) "
        "| doctests right | tokens/s alone, a real shape | 16 at once |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in result["quality"].items():
        timed = speed.get(name)
        rates = [
            _times(timed[batch], speed["original"][batch]) if timed else "" for batch in ("1", "16")
        ]
        left = f"{found['of_layers']:.0%}" if "of_layers" in found else "100%"
        right = f"{found['doctests_right']:.0%}"
        rows.append(f"| {name} | {left} | {_lost(found)} | {right} | {' | '.join(rates)} |")
    told = result["conditions"]["quality"]
    lines = [
        *rows,
        "",
        f"{told['date']}, loss: embedded model ({told['parameters'] / 1e6:.1f} M parameters), "
        f"{told['held_out_tokens']:,} held-out tokens, {told['doctests']} doctests; calibration: "
        f"{told['calibration']}.",
    ]
    if timed := result["conditions"].get("speed"):
        lines.append(
            f"Speed: {timed['model']}, random weights, {timed['dtype']}, {timed['threads']} "
            "threads, prompts and answers of 32 tokens, medians of 3 rounds in turn (least-most)."
        )
    return "\n".join(lines)


def one_layer_less(result: dict[str, Any]) -> str:
    """The loss of text of the train split and of other text without each layer alone."""
    without = result["without a layer"]
    whole = without["none"]
    names = [name for name in without if name != "none"]
    rows = [f"| without layer | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for key, title in (("calibration", "calibration text"), ("held_out", "held-out text")):
        cells = [f"{without[name][key] / whole[key] - 1:+.1%}" for name in names]
        rows.append(f"| loss of {title} | {' | '.join(cells)} |")
    return "\n".join([*rows, "", f"{result['conditions']['layers']['text']}."])


def _times(rates: list[float], original: list[float]) -> str:
    low, middle, high = rates
    return f"{middle:,.0f} ({low:,.0f}-{high:,.0f}), {middle / original[1]:.2f} ×"
