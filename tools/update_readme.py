"""Fill the README's figures from results on disk, so that none is typed by hand.

    python tools/update_readme.py --run runs/README

Writes between the markers `<!-- begin NAME -->` and `<!-- end NAME -->`: the
terminal report of a run, and tables from `benchmarks/results/*.json`, some of them
in `docs/`; the run's picture to `docs/images/bench.png`; and the pages and pictures of
`docs/techniques/` (see `technique_curves`).
"""

from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import pages
import technique_curves
from pages import ROOT, fill
from penstock.record import run as runs
from penstock.report import png, terminal
from readme_audit import audited
from readme_cache import swept, validated
from readme_compress import (
    one_layer_less,
    prompts_that_stop,
    pruning,
    recovered,
    rounding,
    stopped_early,
)
from readme_meter import meter
from readme_overhead import switched_off
from readme_overlap import overlapped
from readme_peers import peers
from readme_planner import planner
from readme_prediction import kernels as efficiencies
from readme_prediction import predicted, simulated
from readme_prompts import breakeven, picture, worth
from readme_reason import prefixes, samples
from readme_simulator import routing, speed, split
from readme_speculation import accepted, bounded, replayed


def report(run: runs.Run) -> str:
    """The terminal report as a code block, without the paths of this machine."""
    run.summary["html"] = run.summary["run_dir"] = None
    console = Console(file=StringIO(), width=96)
    terminal.show(run, console)
    assert isinstance(console.file, StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().strip("\n").splitlines()]
    return "\n".join(["```", *lines, "```"])


def with_spread(figure: dict[str, Any], digits: int) -> str:
    """Median and range, as `1.78 (1.70-1.85)`."""
    median, low, high = (f"{figure[k]:,.{digits}f}" for k in ("median", "min", "max"))
    return f"{median} ({low}-{high})"


def batching(result: dict[str, Any]) -> str:
    """Continuous against static batching, and the KV cache, as two tables."""
    told = result["batching"]["conditions"]
    rows = [
        "| output lengths | static, tok/s | continuous, tok/s | gain | ratio of steps "
        "| longest/mean |",
        "|---|---|---|---|---|---|",
    ]
    for shape in ("equal", "uniform", "exponential"):
        f = result["batching"][shape]
        rows.append(
            f"| {shape} | {with_spread(f['static_output_tokens_per_s'], 0)} "
            f"| {with_spread(f['continuous_output_tokens_per_s'], 0)} "
            f"| {with_spread(f['gain'], 2)} "
            f"| {with_spread(f['ratio_of_steps'], 2)} "
            f"| {with_spread(f['expected_longest_over_mean'], 2)} |"
        )
    rows += ["", "| output tokens | KV cache off, tok/s | on, tok/s | gain |", "|---|---|---|---|"]
    for length in ("32", "128", "512"):
        f = result["kv_cache"][length]
        rows.append(
            f"| {length} | {with_spread(f['off_tokens_per_s'], 0)} "
            f"| {with_spread(f['on_tokens_per_s'], 0)} | {with_spread(f['gain'], 1)} |"
        )
    rows += ["", f"{conditions(told)}; {told['rows']} rows, {told['requests']} requests at once; "
             "the KV cache one request at a time; median (least-greatest)."]  # fmt: skip
    return "\n".join(rows)


def features(result: dict[str, Any]) -> str:
    """What a request pays for beams, a schema, filters and penalties."""
    told, beams = result["conditions"], result["beams_4_over_samples_4"]
    rows = ["| what | against | time |", "|---|---|---|"]
    for load, figure in beams.items():
        rows.append(f"| 4 beams, {load} at once | 4 samples | {with_spread(figure, 2)} |")
    schema = {k: 1 / v for k, v in result["json_schema_at_32"]["throughput_share"].items()}
    schema["min"], schema["max"] = schema["max"], schema["min"]
    rows.append(f"| a JSON schema | the same lengths without | {with_spread(schema, 2)} |")
    for name, figure in result["time_over_plain_at_32"].items():
        rows.append(f"| {name} | the same requests without | {with_spread(figure, 2)} |")
    rows += ["", f"{conditions(told)}; {told['concurrency']} requests at once unless said, "
             f"{told['prompt_tokens']} prompt and {told['output_tokens']} output tokens (a schema "
             "ends its own output); median (least-greatest) of pairs."]  # fmt: skip
    return "\n".join(rows)


def overhead(host: dict[str, Any], scheduler: dict[str, Any]) -> str:
    """What Python costs: beside the model, and alone."""
    told, leaps = host["conditions"], scheduler["leaps"]
    return (
        f"At {told['concurrency']} concurrent requests "
        f"{with_spread({k: 100 * v for k, v in host['host_share_of_step'].items()}, 1)} % of a "
        f"step is spent outside model and sampling ({conditions(told)}). The scheduler alone "
        f"replays {leaps['requests']:,} requests of a production trace, {leaps['steps']:,} steps, "
        f"in {leaps['elapsed_s']} s with leaps and {scheduler['walk']['elapsed_s']} s without."
    )


def quality(result: dict[str, Any]) -> str:
    """What each format of weights and KV loses, as it is and with outliers planted."""
    told = result["as it is"]["conditions"]
    rows = [
        "| weights, KV | held-out loss over fp32 | KL to fp32, nats | doctests right "
        "| with outliers: loss | KL | doctests |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, plain in result["as it is"].items():
        if name == "conditions":
            continue
        cells = [
            f"{100 * f['loss_over_fp32']:+.2f} % | {f['kl_to_fp32_nats']:.5f} "
            f"| {100 * f['doctests_right']:.0f} %"
            for f in (plain, result["with outliers"][name])
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(
        [
            *rows,
            "",
            f"{told['date']}, {told['model']} model ({told['parameters'] / 1e6:.1f} M parameters), "
            f"{told['held_out_tokens']:,} held-out tokens, {told['doctests']} doctests, "
            f"{told['planted']}.",
        ]
    )


def conditions(told: dict[str, Any]) -> str:
    """The conditions of a benchmark in one line."""
    return (
        f"{told['date']}, {told['model']} model ({told['parameters'] / 1e6:.1f} M parameters, "
        f"{told['dtype']}), threads: {told['threads']}, {told['processor']}, {told['mode']}, "
        f"torch {told['torch']}"
    )


def main(run: Annotated[Path, typer.Option(help="directory of the run to show")]) -> None:
    results = pages.results()
    shown = runs.load(run)
    (ROOT / "docs/images").mkdir(exist_ok=True)
    png.write(shown, ROOT / "docs/images/bench.png")
    text = (ROOT / "README.md").read_text()
    text = fill(text, "report", report(shown))
    text = fill(text, "features", features(results["request_features"]))
    text = fill(text, "batching", batching(results["batching_gain"]))
    text = fill(text, "peers", peers(results["engine_peers"]))
    text = fill(text, "meter", meter(results["meter_truth"], results["meter_ceiling"]))
    text = fill(text, "planner", planner(results))
    text = fill(text, "overhead", overhead(results["host_overhead"], results["scheduler_speed"]))
    (ROOT / "README.md").write_text(text)
    kernels = ROOT / "docs/kernels.md"
    page = fill(kernels.read_text(), "quality", quality(results["format_quality"]))
    kernels.write_text(fill(page, "overlap", overlapped(results["overlap"])))
    if (switched := results.get("overhead_off")) is not None:
        structure = ROOT / "docs/architecture.md"
        page = fill(structure.read_text(), "overhead-off", switched_off(switched))
        structure.write_text(page)
    compressing = ROOT / "docs/compress.md"
    page = fill(compressing.read_text(), "compress-quality", rounding(results["compress_quality"]))
    page = fill(page, "compress-pruning", pruning(results["compress_pruning"]))
    page = fill(page, "compress-distill", recovered(results["compress_distill"]))
    page = fill(page, "compress-layers", one_layer_less(results["compress_pruning"]))
    page = fill(page, "swiftkv-speed", prompts_that_stop(results["swiftkv"]))
    page = fill(page, "swiftkv-loss", stopped_early(results["swiftkv"]))
    compressing.write_text(page)
    audit = ROOT / "docs/audit.md"
    audit.write_text(fill(audit.read_text(), "validated", audited(results["audit_validate"])))
    steps = ROOT / "docs/step_time.md"
    page = fill(steps.read_text(), "kernels", efficiencies(results["kernel_efficiencies"]))
    page = fill(page, "predicted", predicted(results["predict_validate"]))
    steps.write_text(fill(page, "simulated", simulated(results["simulate_validate"])))
    reasoning = ROOT / "docs/reasoning.md"
    page = fill(reasoning.read_text(), "samples", samples(results["reason"]))
    reasoning.write_text(fill(page, "prefixes", prefixes(results["shared_prefix"])))
    caches = ROOT / "docs/prefix_cache.md"
    page = fill(caches.read_text(), "mooncake", swept(results["cache_mooncake"]))
    page = fill(page, "agentic", swept(results["cache_agentic"]))
    caches.write_text(fill(page, "validated", validated(results["cache_validate"])))
    guesses = ROOT / "docs/speculation.md"
    page = fill(guesses.read_text(), "accepted", accepted(results["speculation"]))
    page = fill(page, "replayed", replayed(results["speculation"]))
    if (beside := results.get("speculation_bound")) is not None:
        page = fill(page, "bounded", bounded(beside))
    guesses.write_text(page)
    shorter = ROOT / "docs/prompt_compression.md"
    page = fill(shorter.read_text(), "prompt-breakeven", breakeven(results["prompt_speed"]))
    if (lost := results.get("prompt_quality")) is not None:
        for case in ("continuation", "recall"):
            page = fill(page, f"prompt-{case}", worth(lost, case))
        picture(lost, ROOT / "docs/images/prompt_compression.png")
    shorter.write_text(page)
    fleets = ROOT / "docs/simulator.md"
    page = fill(fleets.read_text(), "speed", speed(results["simulate_speed"]))
    page = fill(page, "routing", routing(results["routing_study"]))
    fleets.write_text(fill(page, "split", split(results["disaggregation_study"])))
    technique_curves.write(results)


if __name__ == "__main__":
    typer.run(main)
