"""A planned fleet as files that the simulator reads: `penstock bench sim:FILE.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from penstock.predict import stepfile
from penstock.predict.stepfile import StepFile
from penstock.simulate.fleet import Fleet

_STEPTIME = ".steptime.toml"


def write(fleet: Fleet, path: Path, fitted: StepFile | None) -> None:
    """Write the fleet; where its step times were fitted, they go into a file beside it.

    Raises `OSError` where a file cannot be written.
    """
    if fitted is not None:
        beside = path.with_suffix(_STEPTIME)
        stepfile.write(fitted, beside)
        groups = tuple(
            msgspec.structs.replace(group, model=None, device=None, steptime=beside.name)
            for group in fleet.replicas
        )
        fleet = msgspec.structs.replace(fleet, replicas=groups)
    path.write_text(to_toml(fleet), encoding="utf-8")


def to_toml(fleet: Fleet) -> str:
    """The fleet's name, router and groups of replicas, in the simulator's own fields."""
    lines = [f"name = {_value(fleet.name)}", f"router = {_value({'policy': fleet.router.policy})}"]
    for group in fleet.replicas:
        fields = msgspec.to_builtins(group)
        lines += ["", "[[replicas]]"]
        lines += [f"{name} = {_value(told)}" for name, told in fields.items() if told is not None]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_value(told)}" for name, told in value.items()) + " }"
    # A number, a truth value or a text is written in TOML as it is in JSON.
    return msgspec.json.encode(value).decode()
