"""Step times on disk: written by `calibrate`, read by whatever predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from penstock.predict.architecture import architecture
from penstock.predict.deployment import Deployment
from penstock.predict.physical import PhysicalStepTime
from penstock.predict.sheet import device
from penstock.predict.steptime import Costs, Efficiencies, MeasuredStepTime, Overheads

FORMAT = 1
AnyStepTime = PhysicalStepTime | MeasuredStepTime


class Named(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A `Deployment` by the names of its model and device."""

    model: str
    device: str
    weights: str = "bf16"
    kv: str = "bf16"
    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1

    def deployment(self) -> Deployment:
        """Look the names up. Raises `ValueError` that names the known ones."""
        named = msgspec.structs.asdict(self)
        found = {"model": architecture(self.model), "device": device(self.device)}
        return Deployment(**(named | found))


class Parameters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One set of a step time's parameters: physical, or measured `costs`.

    All of it takes `scale` times as long: 1 of an estimate, around 1 of draws.
    """

    efficiencies: Efficiencies | None = None
    overheads: Overheads | None = None
    costs: Costs | None = None
    scale: float = 1.0

    def steptime(self, deployment: Deployment | None) -> AnyStepTime:
        """The step time with these parameters. Raises `ValueError` where one part is missing."""
        if deployment is not None:
            return PhysicalStepTime(deployment, self.efficiencies, self.overheads, self.scale)
        if self.costs is None:
            raise ValueError(
                "a step time needs [deployment] with [estimate.efficiencies], or "
                "[estimate.costs] without: see penstock.predict.steptime."
            )
        return MeasuredStepTime(self.costs.times(self.scale))


class StepFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the file holds; see `penstock.predict.steptime` for each table."""

    format: int = FORMAT
    pages: int | None = None
    page_size: int | None = None
    deployment: Named | None = None
    estimate: Parameters = msgspec.field(default_factory=Parameters)
    fit: dict[str, Any] = {}
    draws: list[Parameters] = []

    def steptime(self) -> AnyStepTime:
        """The step time of the estimate. Raises `ValueError` as `load_steptime`."""
        return self.estimate.steptime(self._deployment())

    def replicates(self) -> list[AnyStepTime]:
        """The step times of the bootstrap's draws."""
        deployment = self._deployment()
        return [draw.steptime(deployment) for draw in self.draws]

    def _deployment(self) -> Deployment | None:
        return self.deployment.deployment() if self.deployment else None


def read(path: Path) -> StepFile:
    """Read a step-time file. Raises `ValueError` naming the file and what is wrong in it."""
    try:
        found = msgspec.toml.decode(path.read_bytes(), type=StepFile)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is no step-time file: {error}.") from None
    if found.format != FORMAT:
        raise ValueError(
            f"{path} has format {found.format}; this version of penstock reads {FORMAT}."
        )
    return found


def write(file: StepFile, path: Path) -> None:
    """Write a step-time file. Raises `OSError` where it cannot be written."""
    path.write_text(_toml(msgspec.to_builtins(file)), encoding="utf-8")


def load_steptime(path: Path) -> AnyStepTime:
    """The step time in a file. Raises `ValueError` for what is no such file."""
    return read(path).steptime()


def load_draws(path: Path) -> list[AnyStepTime]:
    """The bootstrap replicates in a file: empty where its fit kept none."""
    return read(path).replicates()


def _toml(table: dict[str, Any], name: str = "") -> str:
    """A table as TOML: its values first, then the tables in it; tables in a list on one line."""
    inner = {key: value for key, value in table.items() if isinstance(value, dict) and value}
    lines = [f"{key} = {_value(value)}" for key, value in table.items() if key not in inner]
    text = "".join(f"{line}\n" for line in lines)
    if name and lines:
        text = f"\n[{name}]\n{text}"
    return text + "".join(
        _toml(value, f"{name}.{key}" if name else key) for key, value in inner.items()
    )


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        rows = (",\n  " if value and isinstance(value[0], dict) else ", ").join(map(_value, value))
        return f"[{rows}]"
    # A number, a truth value or a text is written in TOML as it is in JSON.
    return msgspec.json.encode(value).decode()
