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
        "| doctests right | tokens/s alone, a real shape | 16 at once "
        "| $ a million of these tokens, at $1 an hour |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in result["quality"].items():
        timed = speed.get(name)
        rates = [
            _times(timed[batch], speed["original"][batch]) if timed else "" for batch in ("1", "16")
        ]
        cost = f"{1e6 / 3600 / timed['16'][1]:.2f}" if timed else ""
        left = f"{found['of_layers']:.0%}" if "of_layers" in found else "100%"
        right = f"{found['doctests_right']:.0%}"
        rows.append(
            f"| {name} | {left} | {_lost(found)} | {right} | {' | '.join(rates)} | {cost} |"
        )
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


def recovered(result: dict[str, Any]) -> str:
    """What training gives back of a quarter of the depth, with a teacher and without."""
    titles = {
        "pruned": "a quarter of the depth out",
        "distilled": "then trained with the whole model as teacher",
        "fine-tuned": "then trained on the text alone",
    }
    rows = [
        "| model | held-out loss over the original (95 %) | KL, nats | doctests right |",
        "|---|---|---|---|",
    ]
    for name, found in result.items():
        if name == "conditions" or " tenth " in name:
            continue  # short ones choose a rate
        rate = f", rate {found['rate']:g}" if "rate" in found else ""
        rows.append(
            f"| {titles.get(name, name)}{rate} | {_lost(found)} "
            f"| {found['kl_to_original_nats']:.3f} | {found['doctests_right']:.1%} |"
        )
    told = result["conditions"]
    return "\n".join(
        [
            *rows,
            "",
            f"{told['date']}, embedded model ({told['parameters'] / 1e6:.1f} M parameters), "
            f"{told['minutes']:g} minutes of each training on one core ({told['processor']}), the "
            f"teacher's passes included; {told['held_out_tokens']:,} held-out tokens, "
            f"{told['doctests']} doctests.",
        ]
    )


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


def prompts_that_stop(result: dict[str, Any]) -> str:
    """Tokens a second of SwiftKV at half depth beside the original, load by load."""
    rows = [
        "| alone, unless said | format | original, tokens/s | SwiftKV | in each round |",
        "|---|---|---|---|---|",
    ]
    for form, loads in result["speed"].items():
        for name, found in loads.items():
            cells = [_spread(found[which], ",.0f") for which in ("original", "swiftkv")]
            times = _spread(found["times"], ".2f")
            rows.append(f"| {name} | {form} | {' | '.join(cells)} | **{times}** × |")
    told, work = result["conditions"]["speed"], result["arithmetic"]
    return "\n".join(
        [
            *rows,
            "",
            f"{told['date']}, {told['model']}, random weights, prompts stop behind "
            f"{work['layers_left']:.0%} of the layers; {told['threads']} threads, medians of "
            f"{told['rounds']} rounds in turn (least to most); tokens of the answer, or of a "
            "prompt where the answer is one token. Of a prompt's products "
            f"{work['prompt_flops_left']:.1%} are left.",
        ]
    )


def stopped_early(result: dict[str, Any]) -> str:
    """Loss of the embedded model: converted, then trained."""
    rows = [
        "| prompts stop | held-out loss over the original (95 %) | KL, nats | doctests right "
        "| KV bytes a token |",
        "|---|---|---|---|---|",
    ]
    for name, found in result["quality"].items():
        if found.get("tried"):
            continue  # short, to choose a rate
        kept = f"{found['kv_bytes_per_token']:,}" if "kv_bytes_per_token" in found else ""
        rows.append(
            f"| {_training(name, found)} | {_lost(found)} | {found['kl_to_original_nats']:.4f} "
            f"| {found['doctests_right']:.0%} | {kept} |"
        )
    told = result["conditions"]["quality"]
    return "\n".join(
        [
            *rows,
            "",
            f"{told['date']}, embedded model ({told['parameters'] / 1e6:.1f} M parameters), "
            f"{told['held_out_tokens']:,} held-out tokens, {told['doctests']} doctests; trained on "
            f"{told['processor']}.",
        ]
    )


def _training(name: str, found: dict[str, Any]) -> str:
    if "minutes" not in found:
        return name
    what = "only W_q, W_k, W_v behind" if found["light"] else "every weight"
    minutes = "1 minute" if found["minutes"] == 1 else f"{found['minutes']:g} minutes"
    how = f"{minutes} distilled, {what}, rate {found['rate']:g}"
    return f"{name.rpartition(',')[0]}: {how}"


def _spread(values: dict[str, float], form: str) -> str:
    ends = f"{values['min']:{form}}-{values['max']:{form}}"
    return f"{values['median']:{form}} ({ends})"


def _times(rates: list[float], original: list[float]) -> str:
    low, middle, high = rates
    return f"{middle:,.0f} ({low:,.0f}-{high:,.0f}), {middle / original[1]:.2f} ×"
