"""From the options of `penstock cache` as they were written to the fleet that they mean."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from penstock.simulate.fleet import Fleet

Params = Mapping[str, Any]  # of the command, by name


def refuse_idle(params: Params, given: Set[str]) -> None:
    """Refuse what would change nothing."""
    fleet, steptime = params["fleet"] is not None, params["steptime"] is not None
    for idle, why, names in (
        (
            fleet,
            "is what --fleet says",
            "model on weights kv tp steptime max_running max_step_tokens",
        ),
        (steptime, "is what --steptime was fitted to", "on weights tp"),
        (steptime and params["model"] is None, "belongs to a --model", "kv"),
        (params["sizes"] is not None, "is set by --sizes", "points"),
    ):
        for name in names.split():
            if idle and name in given:
                option = "--" + name.replace("_", "-")
                raise typer.BadParameter(f"this {why}; leave it out", param_hint=option)


def fleet_of(params: Params) -> Fleet:
    """The fleet that is named, or one replica of what is. Raises `ValueError`."""
    from penstock.predict.architecture import architecture
    from penstock.simulate.fleet import Fleet, Group, read_fleet

    model, on, steptime = params["model"], params["on"], params["steptime"]
    if params["fleet"] is not None:
        return read_fleet(params["fleet"])
    policy = {
        "preset": "penstock",
        "max_running": params["max_running"] or 256,
        "max_step_tokens": params["max_step_tokens"] or 8192,
        "max_waiting": 1 << 40,  # whoever comes waits: every size must serve the same requests
        "max_waiting_tokens": 1 << 60,
    }
    if steptime is not None:
        per_token = model and architecture(model).kv_bytes_per_token(params["kv"])
        group = Group(steptime=str(steptime), kv_bytes_per_token=per_token, policy=policy)
        return Fleet(name=steptime.stem, replicas=(group,))
    if model is None or on is None:
        raise ValueError(
            "say what serves: --model with --on (llama-3.1-8b on h200), --steptime FILE, or --fleet"
        )
    shape = architecture(model)
    group = Group(
        model=model,
        device=on,
        weights=params["weights"] or shape.weights,
        kv=params["kv"],
        tp=params["tp"],
        policy=policy,
    )
    return Fleet(name=shape.name, replicas=(group,))
