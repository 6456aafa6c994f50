"""Predictions without calibration, held against measured serving points.

python -m benchmarks.predict_validate --measured serving_measured_h100_b200.csv [--json] [--out F]

Each row of the file is a closed loop: model, format, lengths, concurrency, parallelism, and the
mean TTFT and TPOT that were measured. Nothing is fitted here. What guided the choices behind
the defaults (which habits each server has, which efficiencies kernels reach) may have been
looked at in the rows of GUIDES only; everything else is held out, and `held_out` reports it alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks.measured_points import Measured, Replicas, measured, rows
from penstock.predict.architecture import architecture
from penstock.predict.deployment import Deployment
from penstock.predict.meanfield import OperatingPoint, operating_point, split_point
from penstock.predict.physical import PhysicalStepTime
from penstock.predict.sheet import device

# Rows that may guide choices, by model and system: under a third of the file.
GUIDES = {
    ("meta-llama/Llama-3.1-8B-Instruct", "h100_sxm"),
    ("Qwen/Qwen3-32B", "h100_sxm"),
    ("deepseek-ai/DeepSeek-V3", "b200_sxm"),
}
# What the file does not record, as servers and benchmarks usually are.
STEP_TOKENS = 8192  # most tokens of a step of one group
SEATS = 1024  # most sequences of one group
KV_FORMAT = "bf16"
ROUNDS = 10  # requests that are sent for each of the concurrent ones


@cache
def _step(model: str, system: str, weights: str, part: Replicas) -> PhysicalStepTime:
    shape = {"tp": part.tp, "pp": part.pp, "dp": part.dp, "ep": part.ep}
    return PhysicalStepTime(
        Deployment(architecture(model), device(system), weights, KV_FORMAT, **shape)
    )


def predict(row: Measured) -> OperatingPoint:
    """What is predicted for one row, from the sheet and the defaults alone."""
    steps = [_step(row.model, row.system, row.weights, part) for part in row.parts]
    decode, last = steps[-1], row.parts[-1]
    kv_tokens = decode.deployment.kv_tokens(row.prompt + row.output / 2)
    if row.mode == "disagg":
        return split_point(
            *steps,
            prefills=row.parts[0].count,
            decodes=last.count,
            prompt=row.prompt,
            output=row.output,
            concurrency=row.concurrency,
            max_step_tokens=STEP_TOKENS,
            max_running=SEATS * last.dp,
            kv_tokens=kv_tokens,
            prefill_groups=row.parts[0].dp,
            rounds=ROUNDS,
        )
    return operating_point(
        decode,
        prompt=row.prompt,
        output=row.output,
        concurrency=row.concurrency,
        max_step_tokens=STEP_TOKENS,
        max_running=SEATS,
        kv_tokens=kv_tokens,
        groups=last.dp,
        order="prompts first" if row.backend.endswith("sglang") else "mixed",
        rounds=ROUNDS,
        in_step=not row.drawn,
    )


def is_dense(row: Measured) -> bool:
    return not architecture(row.model).is_moe


def is_plain(row: Measured) -> bool:
    return row.mode == "agg" and is_dense(row)


def guides(row: Measured) -> bool:
    return (row.model, row.system) in GUIDES


def trivial(row: Measured) -> float:
    """The estimate to beat: throughput by concurrency per device and by lengths alone."""
    share = row.output / (row.output + 0.05 * row.prompt)
    return row.concurrency / row.devices * share


def throughput(row: Measured, ttft_s: float, tpot_s: float) -> float:
    """Output tokens/s of one device, in a closed loop."""
    return row.concurrency * row.output / (ttft_s + tpot_s * (row.output - 1)) / row.devices


Pair = tuple[Measured, OperatingPoint]


def accuracy(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Errors and ranking over some rows."""
    if not pairs:
        return {"rows": 0}
    tpot = [found.tpot_s / row.tpot_s - 1 for row, found in pairs]
    ttft = [found.ttft_s / row.ttft_s - 1 for row, found in pairs if row.ttft_s]
    scored = [
        (row, throughput(row, row.ttft_s, row.tpot_s), throughput(row, f.ttft_s, f.tpot_s))
        for row, f in pairs
    ]
    ranked = ranking(scored)
    plain = ranking([(row, true, trivial(row)) for row, true, _ in scored])
    return {
        "rows": len(pairs),
        "tpot_median_abs_error": _median(abs(e) for e in tpot),
        "tpot_median_error": _median(tpot),
        "ttft_median_abs_error": _median(abs(e) for e in ttft),
        "ttft_median_error": _median(ttft),
        **ranked,
        "trivial": plain,
    }


def ranking(scored: Iterable[tuple[Measured, float, float]]) -> dict[str, Any]:
    """Choices among configurations with model, lengths and concurrency fixed, by tokens/s a device.

    `regret`: how far the chosen one lies under the best, of what was measured.
    Several rows of one configuration count as their median. Rank correlation
    (Spearman's) of choices among three or more.
    """
    choices: dict[Any, dict[Any, list[tuple[float, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row, true_rate, guessed in scored:
        choice = (row.model, row.mode, row.prompt, row.output, row.concurrency)
        setup = (row.system, row.backend, row.weights, row.parts)
        choices[choice][setup].append((true_rate, guessed))
    regrets, correlations = [], []
    for setups in choices.values():
        true = [statistics.median([t for t, _ in found]) for found in setups.values()]
        guess = [statistics.median([g for _, g in found]) for found in setups.values()]
        if len(true) < 2:
            continue
        regrets.append(1 - true[guess.index(max(guess))] / max(true))
        if len(true) > 2 and len(set(guess)) > 1 and len(set(true)) > 1:
            correlations.append(float(stats.spearmanr(true, guess).statistic))
    return {
        "choices": len(regrets),
        "spearman_median": _median(correlations),
        "regret_median": _median(regrets),
    }


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return round(statistics.median(found), 4) if found else None


def validate(path: Path) -> dict[str, Any]:
    """Everything that is printed for one file."""
    pairs: list[Pair] = []
    refused: dict[str, int] = defaultdict(int)
    lines = rows(path)
    guiding = sum((line["model_path"], line["system"]) in GUIDES for line in lines)
    for line in lines:
        try:
            row = measured(line)
            pairs.append((row, predict(row)))
        except ValueError as error:
            refused[f"{line['model_path']} on {line['system']}: {error}"[:160]] += 1

    def part(of: Callable[[Measured], Any]) -> dict[str, Any]:
        groups: dict[str, list[Pair]] = defaultdict(list)
        for pair in pairs:
            groups[str(of(pair[0]))].append(pair)
        return {name: accuracy(found) for name, found in sorted(groups.items())}

    def some(keep: Callable[[Measured], bool]) -> dict[str, Any]:
        return accuracy([pair for pair in pairs if keep(pair[0])])

    return {
        "overall": some(is_plain),
        "held_out": some(lambda row: is_plain(row) and not guides(row)),
        "guides": some(lambda row: is_plain(row) and guides(row)),
        "guides_share": round(guiding / max(len(lines), 1), 3),
        "moe": some(lambda row: row.mode == "agg" and not is_dense(row)),
        "split": some(lambda row: row.mode == "disagg"),
        "by_model": part(lambda row: f"{row.model} {row.mode}"),
        "by_system": part(lambda row: f"{row.system} {row.mode}"),
        "by_mode": part(lambda row: row.mode),
        "by_backend": part(lambda row: f"{row.backend} {row.mode}"),
        "unpredicted": dict(refused),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--measured", type=Path, required=True)
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    given = parser.parse_args()
    result = validate(given.measured)
    text = json.dumps(result, indent=1)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    print(text if given.json else _table(result))


def _table(result: dict[str, Any]) -> str:
    lines = [f"{'rows of':44} {'n':>5}   TPOT   TTFT   rank  regret  (trivial)"]
    flat = {name: result[name] for name in ("overall", "held_out", "guides", "moe", "split")}
    for name, found in {**flat, **result["by_model"], **result["by_backend"]}.items():
        if not found["rows"]:
            continue
        cells = [found[f"{m}_median_abs_error"] for m in ("tpot", "ttft")]
        cells += [found["spearman_median"], found["regret_median"]]
        cells += [found["trivial"]["spearman_median"], found["trivial"]["regret_median"]]
        shown = ["-" if cell is None else f"{cell:.2f}" for cell in cells]
        lines.append(
            f"{name:44} {found['rows']:5} {shown[0]:>6} {shown[1]:>6} {shown[2]:>6} {shown[3]:>7}"
            f"  ({shown[4]}, {shown[5]})"
        )
    lines += [f"not predicted, {count}: {why}" for why, count in result["unpredicted"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
