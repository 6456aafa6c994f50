"""Whose step times a plan stands on: a calibrated file's where it knows the device, or a sheet."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from penstock.plan.candidate import PAGE
from penstock.predict import stepfile
from penstock.predict.deployment import Deployment
from penstock.predict.physical import PhysicalStepTime
from penstock.predict.stepfile import Named, StepFile
from penstock.predict.steptime import StepLoad


class Errors(NamedTuple):
    """How far predictions from a sheet alone were off, of times per output token.

    `median` is the relative error that half of them stay within; nine in ten
    measured times were from `low` to `high` times the predicted ones.
    """

    median: float
    low: float
    high: float


# Of the measured serving points that `benchmarks/predict_validate.py` holds predictions against,
# of whole fleets without those that guided choices; a test recomputes them.
ERRORS = {
    "dense models": Errors(0.08, 0.78, 1.15),
    "mixtures of experts": Errors(0.16, 0.64, 1.70),
    "fleets with prompts apart": Errors(0.18, 0.72, 2.27),
}
_DRAWS = (0.05, 0.95)  # quantiles of a fit's replicates


class Basis(msgspec.Struct, frozen=True, kw_only=True):
    """How well a step time is known: nine in ten are from `low` to `high` times as long."""

    measured: bool
    low: float
    high: float
    says: str


class Steps:
    """The step time of every deployment.

    A calibrated file speaks of its own device: with its efficiencies and
    overheads any deployment there gets its step time. Other devices get the
    sheet's defaults. Raises `ValueError` for a file that names no hardware.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file = None if path is None else stepfile.read(path)
        if self._file is None:
            return
        if self._file.deployment is None:
            raise ValueError(
                f"{path} was fitted without model and hardware, so it holds for that one server "
                "alone; fit it again with both (`penstock calibrate --help`)"
            )
        self._fitted = self._file.deployment.deployment()

    def of(self, deployment: Deployment) -> PhysicalStepTime:
        """Seconds of its steps. Raises `ValueError` where the sheet lacks a rate."""
        if self._file is not None and self._knows(deployment):
            fitted = self._file.estimate
            return PhysicalStepTime(deployment, fitted.efficiencies, fitted.overheads, fitted.scale)
        return PhysicalStepTime(deployment)

    def kv_tokens(self, deployment: Deployment, context: float) -> int:
        """Tokens of a replica's KV pool: as the server that was seen had it, or by its memory."""
        file = self._file
        if file is not None and self._fitted == deployment and file.pages and file.page_size:
            return file.pages * file.page_size
        return int(deployment.kv_tokens(context))

    def file_of(self, deployment: Deployment, context: float) -> StepFile | None:
        """The calibrated step times of a deployment as a file of its own; None where none are."""
        if self._file is None or not self._knows(deployment):
            return None
        d = deployment
        named = Named(
            model=d.model.name,
            device=d.device.name,
            weights=d.weights,
            kv=d.kv,
            tp=d.tp,
            pp=d.pp,
            ep=d.ep,
            dp=d.dp,
        )
        return StepFile(
            deployment=named,
            estimate=self._file.estimate,
            fit=self._file.fit,
            pages=self.kv_tokens(d, context) // PAGE,
            page_size=PAGE,
        )

    def basis(self, deployment: Deployment, load: StepLoad, *, split: bool) -> Basis:
        """How well they are known, looked at with this load."""
        if self._file is None or not self._knows(deployment):
            kind = "mixtures of experts" if deployment.model.is_moe else "dense models"
            kind = "fleets with prompts apart" if split else kind
            known = ERRORS[kind]
            return Basis(
                measured=False,
                low=known.low,
                high=known.high,
                says=(
                    f"predicted from the sheet of the {deployment.device.title}, not measured: for "
                    f"{kind}, half of such predictions of a step's time were off by "
                    f"{known.median:.0%} or less, nine in ten by {known.low - 1:+.0%} to "
                    f"{known.high - 1:+.0%}"
                ),
            )
        nominal = self.of(deployment).seconds(load)
        drawn = [draw.steptime(deployment).seconds(load) for draw in self._file.draws]
        low, high = np.quantile(drawn, _DRAWS) / nominal if drawn else (1.0, 1.0)
        fitted, how = self._fitted, ""
        if fitted != deployment:
            how = (
                f", where {fitted.model.name} ran in {fitted.weights} on {fitted.devices}; "
                "what it says of other models, formats and counts is carried over"
            )
        source = self._file.fit.get("source", self._path)
        return Basis(
            measured=True,
            low=float(low),
            high=float(high),
            says=f"measured: calibrated on {source}{how}",
        )

    def _knows(self, deployment: Deployment) -> bool:
        return self._fitted.device.name == deployment.device.name
