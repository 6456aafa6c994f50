"""The README's table of how far the planner's answers are from what was measured."""

from typing import Any


def planner(results: dict[str, Any]) -> str:
    """One row for each thing that was held against measurements, with the command that does it."""
    validated = results["predict_validate"]
    dense, moe, kept = validated["overall"], validated["moe"], validated["held_out"]
    logs = results["simulate_validate"].values()
    ours = {k: v for k, v in results["engine_validate"].items() if k != "conditions"}
    claims, speed = results["audit_validate"]["overall"], results["simulate_speed"]
    rows = [
        ("what", "against", "error, or result", "`python -m benchmarks.`…"),
        ("---",) * 4,
        (
            "TPOT from the sheet alone",
            f"{dense['rows']:,} measured points of dense models, {moe['rows']:,} of mixtures",
            f"median {dense['tpot_median_abs_error']:.1%} ({kept['tpot_median_abs_error']:.1%} of "
            f"the {kept['rows']} that guided nothing); {moe['tpot_median_abs_error']:.1%}",
            "predict_validate",
        ),
        (
            "best of the configurations measured",
            "the same points",
            f"loses {dense['regret_median']:.0%} in the median; rank correlation "
            f"{dense['spearman_median']:.2f}, {moe['spearman_median']:.2f}",
            "predict_validate",
        ),
        (
            "simulated server, uncalibrated",
            f"{len(logs)} logs of vLLM",
            "E2E " + _each(logs, "zero", "e2e") + "; TTFT " + _each(logs, "zero", "ttft"),
            "simulate_validate",
        ),
        (
            "the same, calibrated on its first 40 %",
            "the requests after",
            "E2E "
            + _each(logs, "calibrated", "e2e")
            + "; TTFT "
            + _each(logs, "calibrated", "ttft"),
            "simulate_validate",
        ),
        (
            "our engine, calibrated from one sweep",
            ", ".join(ours),
            "E2E " + ", ".join(f"{one['e2e_s']['error']['median']:+.1%}" for one in ours.values()),
            "engine_validate",
        ),
        (
            "audit of published points",
            f"{claims['claims']:,} of three tables",
            f"{claims['impossible']} called impossible; no longer believed when multiplied by "
            f"{claims['factor']['median']:.1f} (median)",
            "audit_validate",
        ),
        (
            "simulated requests",
            f"{speed['day']['requests']:,} over a day; the Mooncake trace on 8 replicas",
            f"{speed['day']['cpu_s']:.0f} s; {speed['mooncake_8_replicas']['cpu_s']:.1f} s "
            "of one core",
            "simulate_speed",
        ),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _each(logs: Any, kind: str, metric: str) -> str:
    return ", ".join(f"{log[kind][metric]['mean']:+.1%}" for log in logs)
