"""The tables of docs/step_time.md: what defaults rest on, and how far predictions are off."""

import statistics
from typing import Any


def kernels(result: dict[str, Any]) -> str:
    """Shares of the sheet's rates that measured kernels reach."""
    rows = [
        "| kernels | reach, median (least-greatest) | fixed time, us | default |",
        "|---|---|---|---|",
    ]
    products, decode = result["products"], result["decode attention"]
    parts = {
        "products: bandwidth": [one["bandwidth"] for one in products.values()],
        "products: arithmetic, bf16": _named(products, "bf16", "compute"),
        "products: arithmetic, fp8": _named(products, "fp8", "compute"),
        "attention of decodes: bandwidth": [one["share"] for one in decode.values()],
        "attention of prompts: arithmetic": _shares(result["prefill attention"]),
        "all-reduce over NVLink: link": _shares(_linked(result["all-reduce"])),
    }
    fixed = {
        "products: bandwidth": [one["fixed_us"] for one in products.values()],
        "attention of decodes: bandwidth": _small(decode),
        "attention of prompts: arithmetic": _small(result["prefill attention"]),
        "all-reduce over NVLink: link": _small(_linked(result["all-reduce"])),
    }
    defaults = ("bandwidth", "compute.bf16", "compute.fp8", "kv", "attention", "link")
    for (name, values), default in zip(parts.items(), defaults, strict=True):
        times = _spread(fixed[name], 1, 1.0, "") if name in fixed else ""
        rows.append(f"| {name} | {_spread(values, 0, 100.0, ' %')} | {times} | `{default}` |")
    return "\n".join(rows)


def predicted(result: dict[str, Any]) -> str:
    """Errors without calibration, by part of the measured points."""
    rows = [
        "| rows | n | TPOT, median error | TTFT | rank correlation (trivial) | regret (trivial) |",
        "|---|---|---|---|---|---|",
    ]
    parts = {
        "dense, aggregated": result["overall"],
        "of those held out": result["held_out"],
        "of those that guided choices": result["guides"],
        "mixtures of experts": result["moe"],
        "prefill and decode split": result["split"],
    }
    for name, one in parts.items():
        plain = one["trivial"]
        rows.append(
            f"| {name} | {one['rows']:,} | {one['tpot_median_abs_error']:.1%} "
            f"| {one['ttft_median_abs_error']:.0%} "
            f"| {one['spearman_median']:.2f} ({plain['spearman_median']:.2f}) "
            f"| {one['regret_median']:.0%} ({plain['regret_median']:.0%}) |"
        )
    return "\n".join(rows)


def simulated(results: dict[str, Any]) -> str:
    """A simulated server against real ones' logs."""
    rows = [
        "| log | | E2E mean | TPOT mean | TTFT mean (p90) | TTFT of those taken up at once |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in results.items():
        for kind in ("zero", "calibrated"):
            found = one[kind]
            low = found["ttft_at_low_load"]
            rows.append(
                f"| {name.replace('_', ', ')} | {kind} | {found['e2e']['mean']:+.1%} "
                f"| {found['tpot']['mean']:+.1%} "
                f"| {found['ttft']['mean']:+.1%} ({found['ttft']['p90']:+.1%}) "
                f"| {low['mean']:+.0%} of {low['requests']} |"
            )
    rows.append("")
    for name, one in results.items():
        late = one["calibrated"]
        rows.append(
            f"{name.replace('_', ', ')}: calibrated on {late['seen_s']:.0f} of "
            f"{one['seconds']:.0f} s, judged on the {late['predicted']['requests']} requests "
            f"{late['predicted']['which']}; 90 % intervals held "
            f"{late['interval_coverage']['all']:.0%} of windowed means."
        )
    return "\n".join(rows)


def _named(found: dict[str, Any], ending: str, key: str) -> list[float]:
    return [one[key] for name, one in found.items() if name.endswith(ending)]


def _shares(found: dict[str, Any]) -> list[float]:
    return [one["share"] for one in found.values()]


def _small(found: dict[str, Any]) -> list[float]:
    return [one["small_us"] for one in found.values()]


def _linked(found: dict[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in found.items() if not name.startswith("l40s")}


def _spread(values: list[float], digits: int, scale: float, unit: str) -> str:
    ends = (statistics.median(values), min(values), max(values))
    median, low, high = (f"{scale * value:.{digits}f}" for value in ends)
    return f"{median}{unit} ({low}-{high})"
