"""From the options of `penstock bench` as they were written to what the meter understands."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from penstock.cli.parse import counts, numbers, positive, read

if TYPE_CHECKING:
    from penstock.meter.options import Options
    from penstock.workload.arrivals import Arrival
    from penstock.workload.lengths import Lengths
    from penstock.workload.presets import Workload
    from penstock.workload.prompts import Shortener

Params = Mapping[str, Any]  # of the command, by name

# These are called alike by command and meter, and need no reading.
_SAME = """
    trace limit requests warmup workers n prompts seed salt context rules
    tasks few_shot temperature unsafe_sandbox
"""


def options_of(params: Params, given: Set[str]) -> Options:
    """What is to be measured; refuses what cannot be read, by the option's name.

    What the user says of lengths, load or limits goes before a preset's.
    """
    from penstock.meter.options import TOKENS_SIMULATED, Options
    from penstock.record.price import parse_price
    from penstock.record.slo import parse_slos
    from penstock.workload.lengths import parse_lengths
    from penstock.workload.presets import parse_workload

    preset = read("--workload", parse_workload, params["workload"])
    simulated = str(params["target"]).startswith("sim:")
    concurrency, duration, price = params["concurrency"], params["duration"], params["price"]

    def lengths(name: str) -> Lengths:
        text = params[name] if name in given else str(getattr(preset, name) or params[name])
        return read("--" + name.replace("_", "-"), parse_lengths, text)

    slots: tuple[int, ...] = (preset.concurrency,) if preset.concurrency else ()
    slos = tuple(read("--slo", parse_slos, params["slo"] or preset.slos))
    if params["capacity"] and not slos:
        raise typer.BadParameter(
            "capacity is the load up to which limits are met; give them, as ttft.p99<0.5s",
            param_hint="--slo",
        )
    if not params["stream"] and any(slo.metric != "e2e" for slo in slos):
        raise typer.BadParameter(
            "whole answers have only a total time; limit that, as e2e<10s", param_hint="--slo"
        )
    shortener = _shortener(params)
    input_len = lengths("input_len")
    same = {name: params[name] for name in _SAME.split()}
    return Options(
        **same,
        repeats=params["repeats"] or (1 if params["interleave"] is None else 5),
        input_len=input_len if shortener is None else input_len.times(shortener.keep),
        shortener=shortener,
        output_len=lengths("output_len"),
        concurrency=slots if concurrency is None else read("--concurrency", counts, concurrency),
        arrivals=_arrivals(params, preset),
        workload=preset,
        speed=read("--speed", positive, str(params["speed"])),
        duration_s=None if duration is None else read("--duration", positive, str(duration)),
        tokens=params["max_tokens_total"] or (TOKENS_SIMULATED if simulated else None),
        think_s=params["think"],
        samples=read("--samples", counts, params["samples"]),
        search=tuple(name for name in ("sweep", "capacity") if params[name]),
        slos=slos,
        price=None if price is None else read("--price", parse_price, price),
    )


def _shortener(params: Params) -> Shortener | None:
    """What makes prompts shorter before they are sent; loads its model only then."""
    if params["compress_prompts"] is None:
        return None
    from penstock.cli.targets import need_engine
    from penstock.prompts.ahead import Ahead
    from penstock.workload.presets import parse_workload
    from penstock.workload.shapes import Plain

    preset = read("--workload", parse_workload, params["workload"])
    if not isinstance(preset.shape, Plain):
        raise typer.BadParameter(
            "only prompts that stand by themselves can be shortened; leave it out, or --workload",
            param_hint="--compress-prompts",
        )
    need_engine("--compress-prompts")
    try:
        return Ahead(params["compress_model"], params["compress_prompts"])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--compress-prompts") from error


def _arrivals(params: Params, preset: Workload) -> tuple[Arrival, ...]:
    from penstock.workload.arrivals import Poisson, parse_arrival

    if params["rate"] is not None:
        return tuple(Poisson(rate) for rate in read("--rate", numbers, params["rate"]))
    if params["arrival"] is not None:
        return (read("--arrival", parse_arrival, params["arrival"]),)
    closed = params["concurrency"] is not None or preset.arrival is None
    return () if closed or preset.arrival is None else (preset.arrival,)


def refuse_idle(params: Params, given: Set[str]) -> None:
    """Refuse what would change nothing, what excludes each other, and files that are not there."""
    target, trace, prompts, tasks = (params[k] for k in ("target", "trace", "prompts", "tasks"))
    law = next((f"--{name}" for name in ("rate", "arrival") if params[name] is not None), None)
    if params["rate"] is not None and params["arrival"] is not None:
        raise typer.BadParameter("choose one of them", param_hint="--rate and --arrival")
    timed = trace is not None and not _waits(trace)
    if law is not None and timed:
        raise typer.BadParameter("choose one of them", param_hint=f"{law} and --trace")
    search = params["sweep"] or params["capacity"]
    in_process = target is not None and target.startswith("engine:")
    simulated = target is not None and target.startswith("sim:")
    for idle, why, names in (
        (
            law or timed,
            "belongs to a closed loop, without --rate, --arrival or --trace",
            "concurrency think",
        ),
        (not trace, "belongs to a --trace", "speed"),
        (not trace and not tasks, "belongs to a --trace or to --tasks", "limit"),
        (not tasks, "belongs to --tasks", "samples few_shot temperature unsafe_sandbox"),
        (
            tasks,
            "has no use with --tasks (how many of them: --limit)",
            "trace requests input_len output_len prompts salt workload n compress_prompts",
        ),
        (
            trace,
            "is set by the trace (how much of it: --limit)",
            "requests input_len output_len workload compress_prompts",
        ),
        (params["compress_prompts"] is None, "belongs to --compress-prompts", "compress_model"),
        (search, "has no use in a search, which sets the load", "trace tasks repeats interleave"),
        (params["interleave"], "is of one target, without --interleave", "tasks"),
        (not target, "compares with a TARGET; give that first", "interleave"),
        (prompts and prompts.suffix == ".jsonl", "is set by the file of --prompts", "input_len"),
        (
            in_process,
            "belongs to a server, not to an engine in this process",
            "chat stream timeout n workers",
        ),
        (in_process or not target, "belongs to the address of a server", "model api_key"),
        (
            simulated,
            "has no use with a simulated fleet",
            "model api_key chat stream timeout workers tasks prompts salt tokenizer "
            "compress_prompts",
        ),
    ):
        for name in names.split():
            if idle and name in given:
                option = "--" + name.replace("_", "-")
                raise typer.BadParameter(f"this {why}; leave it out", param_hint=option)
    for name in ("prompts", "trace", "tokenizer"):
        if params[name] is not None and not _there(params[name]):
            raise typer.BadParameter(f"{params[name]} does not exist", param_hint=f"--{name}")


def _there(path: Path) -> bool:
    """A trace may be one operating point of a run: runs/x#2."""
    return Path(str(path).partition("#")[0]).exists()


def _waits(trace: Path) -> bool:
    """Whether a trace's requests wait for answers, so that it needs a load of its own."""
    from penstock.workload.traces import read_trace

    def waits(text: str) -> bool:
        return read_trace(Path(text), limit=1).sessions is not None

    return _there(trace) and read("--trace", waits, str(trace))
