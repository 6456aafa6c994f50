"""Whether `penstock audit` lets published measurements pass, and how far beyond them it says no.

python -m benchmarks.audit_validate [--data DIR] [--json] [--out FILE]

Every row of the published tables is audited as a claim of its own: none may be
*impossible*. `factor` is by how much its figure must be multiplied until the
verdict is implausible or impossible, `impossible_factor` until it is
impossible. The audit compares with points of the same tables, so each row is
judged once more without all points of its model (`without_its_model`).
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import penstock
from benchmarks import measured_tables as tables
from benchmarks.measured_points import rows
from benchmarks.measured_tables import FILES
from penstock.plan.audit.blanks import readings
from penstock.plan.audit.claim import Claim
from penstock.plan.audit.evidence import MARGIN, NEAR
from penstock.plan.audit.judge import judge
from penstock.plan.audit.measured import Measured, points
from penstock.plan.audit.verdict import audit

_DATA = Path(os.environ.get("PENSTOCK_DATA", Path(__file__).parents[2] / "shared" / "data"))


def serving(path: Path) -> Iterator[Claim]:
    """Both figures of each row: what a user sees, and what the deployment delivers."""
    for row in rows(path):
        p = tables.told(row)
        common = Claim(
            figure=p.user,
            whose="user",
            phase="decode",
            model=p.model,
            precision=p.precision,
            hardware=p.device,
            devices=p.devices,
            concurrency=p.concurrency,
            prompt=p.prompt,
            output=p.output,
        )
        yield common
        if p.system is not None:
            yield msgspec.structs.replace(common, figure=p.system, whose="system", phase="served")


def of_points(measured: Iterator[Measured]) -> Iterator[Claim]:
    """The figures of tables that tell all that the points hold."""
    for p in measured:
        common = Claim(
            figure=1.0,
            model=p.model,
            precision=p.precision,
            hardware=p.device,
            devices=p.devices,
            batch=p.concurrency,
            prompt=p.prompt,
            output=p.output,
        )
        for figure, whose, phase in (
            (p.user, "user", "decode"),
            (p.system, "system", "served"),
            (p.prefill, "system", "prefill"),
        ):
            if figure is not None:
                fields = {"figure": figure, "whose": whose, "phase": phase}
                yield msgspec.structs.replace(common, **fields)


def claims(results: Path) -> dict[str, list[Claim]]:
    """Every row of the tables under `results` as claims, by table."""
    return {
        "serving": list(serving(results / FILES["serving"])),
        "offline": list(of_points(tables.offline(results / FILES["offline"]))),
        "llama.cpp": list(of_points(tables.batched(results / FILES["llama.cpp"]))),
    }


def multiplied(claim: Claim, factor: float) -> Claim:
    """The claim, so many times as fast."""
    return msgspec.structs.replace(claim, figure=claim.figure * factor)


def factors(claim: Claim) -> tuple[float, float]:
    """By how much the figure must grow to be implausible, and to be impossible.

    Ceilings do not depend on the figure, so both follow from those of the
    reading that asks least; the audit of the figure just below and just above
    must agree.
    """
    judged = [judge(one) for one in readings(claim)]
    implausible = max(min(one.limit, one.sure.rate) / one.reading.rate for one in judged)
    impossible = max(one.sure.rate / one.reading.rate for one in judged)
    assert audit(multiplied(claim, implausible * 1.001)).verdict in ("implausible", "impossible")
    assert audit(multiplied(claim, impossible * 1.001)).verdict == "impossible"
    return implausible, impossible


def validate(of: list[Claim]) -> dict[str, Any]:
    """Verdicts and factors of claims."""
    verdicts = Counter(audit(claim).verdict for claim in of)
    found = np.array([factors(claim) for claim in of])
    alone = Counter(
        max((judge(one, skip=one.model.name).verdict for one in readings(claim)), key=_ease)
        for claim in of
    )
    return {
        "claims": len(of),
        "verdicts": dict(verdicts),
        "impossible": verdicts["impossible"],
        "factor": _spread(found[:, 0]),
        "impossible_factor": _spread(found[:, 1]),
        "without_its_model": dict(alone),
    }


def _ease(verdict: str) -> int:
    return ("impossible", "implausible", "plausible").index(verdict)


def _spread(values: Any) -> dict[str, float]:
    quantiles = {"p10": 0.1, "median": 0.5, "p90": 0.9}
    return {name: round(float(np.quantile(values, q)), 3) for name, q in quantiles.items()}


def main() -> None:
    """Validate all tables and publish the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=_DATA, help="folder that holds results/")
    parser.add_argument("--json", action="store_true", help="print JSON, and only that")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    given = parser.parse_args()
    by_table = claims(given.data / "results")
    every = [claim for of in by_table.values() for claim in of]
    result = {
        "overall": validate(every),
        "by_table": {name: validate(of) for name, of in by_table.items()},
        "files": FILES,
        "conditions": {
            "date": date.today().isoformat(),
            "penstock": penstock.__version__,
            "measured_points": len(points()),
            "near": NEAR,
            "margin": MARGIN,
        },
    }
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n")
    if given.json:
        print(json.dumps(result, indent=2))
        return
    for name, one in {"all": result["overall"], **result["by_table"]}.items():
        said = ", ".join(f"{count} {verdict}" for verdict, count in one["verdicts"].items())
        print(f"{name:>10}: {said}; implausible from {one['factor']['median']} times on (median)")


if __name__ == "__main__":
    main()
