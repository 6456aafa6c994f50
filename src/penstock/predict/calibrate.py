"""From requests that were seen to a step-time file."""

from __future__ import annotations

import msgspec
import numpy as np

from penstock.predict.fit import Bounded, Fit, fit
from penstock.predict.observe import Spans
from penstock.predict.physical import PhysicalStepTime
from penstock.predict.stepfile import Named, Parameters, StepFile
from penstock.predict.steptime import Costs, Efficiencies, MeasuredStepTime, Overheads

RATES = ("read", "compute", "kv", "attention")
EXTRAS = ("sequence", "step", "request")


class Calibration(msgspec.Struct, kw_only=True):
    """A fitted step time, as a file and with what shows how well it fits."""

    file: StepFile
    fitted: Fit
    spans: Spans
    step: PhysicalStepTime | MeasuredStepTime


def calibrate(
    observed: Spans,
    named: Named | None = None,
    *,
    source: str = "",
    seed: int = 0,
) -> Calibration:
    """Fit a step time to what was observed of a server.

    With `named` the efficiencies of that model on that hardware, else what
    each thing costs. Raises `ValueError` for too few spans, and for
    names that nobody knows.
    """
    step: PhysicalStepTime | MeasuredStepTime
    if named is None:
        step, free = _measured(observed)
    else:
        step = PhysicalStepTime(named.deployment())
        free = _physical(step)
    fitted = fit(step, observed, free, seed=seed)
    draws = [
        msgspec.structs.replace(_parameters(costs, step), scale=scale)
        for costs, scale in zip(fitted.draws, fitted.scales, strict=True)
    ]
    file = StepFile(
        deployment=named,
        estimate=_parameters(fitted.costs, step),
        draws=draws,
        fit={
            "source": source,
            "spans": fitted.spans,
            "held_out_error": round(fitted.held_out_error, 4),
            "held_out_bias": round(fitted.bias, 4),
            "interval_coverage": round(fitted.coverage, 3),
            "spread": round(fitted.spread, 4),
        },
    )
    return Calibration(file=file, fitted=fitted, spans=observed, step=file.steptime())


def _physical(step: PhysicalStepTime) -> list[Bounded]:
    """Efficiencies near their defaults, overheads of any server; the link where there is one."""
    costs, deployment = step.costs, step.deployment
    free = [Bounded(name, getattr(costs, name), 1.0, 0.2) for name in RATES]
    if deployment.model.is_moe and step.arithmetic == step.expert_arithmetic:
        products = RATES.index("compute")
        free[products] = free[products]._replace(alike=("experts_compute",))
    elif deployment.model.is_moe:
        free.append(Bounded("experts_compute", costs.experts_compute, 1.0, 0.2))
    if deployment.devices > 1:
        free.append(Bounded("link", costs.link, 1.0, 1.0))
    return free + [Bounded(name, getattr(costs, name), 0.0, 1.0) for name in EXTRAS]


def _measured(observed: Spans) -> tuple[MeasuredStepTime, list[Bounded]]:
    """Where to start without a model: each cost as if it were half of everything."""
    seconds = float(np.sum(observed.seconds))

    def of(total: float) -> float:
        return seconds / total / 2 if total > 0 else 0.0

    starts = {
        "read": of(float(np.sum(observed.steps))),
        "compute": of(float(np.sum(observed.prefill + observed.decodes))),
        "kv": of(float(np.sum(observed.context))) / 4,
        "attention": of(float(np.sum(observed.pairs))) / 4,
        "sequence": of(float(np.sum(observed.decodes))) / 4,
        "step": of(float(np.sum(observed.steps))) / 4,
        "request": float(np.min(observed.seconds)),
    }
    free = [Bounded(name, start, 0.0, 10.0) for name, start in starts.items()]
    return MeasuredStepTime(Costs(**starts)), free


def _parameters(costs: Costs, step: PhysicalStepTime | MeasuredStepTime) -> Parameters:
    if isinstance(step, MeasuredStepTime):
        return Parameters(costs=costs)
    compute = {step.arithmetic: 1 / costs.compute}
    if step.deployment.model.is_moe:
        compute[step.expert_arithmetic] = 1 / costs.experts_compute
    return Parameters(
        efficiencies=Efficiencies(
            bandwidth=1 / costs.read,
            kv=1 / costs.kv,
            attention=1 / costs.attention,
            link=1 / costs.link,
            compute=compute,
        ),
        overheads=Overheads(
            layer_s=costs.layer,
            collective_s=costs.collective,
            sequence_s=costs.sequence,
            step_s=costs.step,
            request_s=costs.request,
        ),
    )
