"""A server's own log of a run: its settings, each request's stamps, and counts by the second.

The format is that of LLMServingSim's measurements of vLLM: a directory with `meta.json`,
`requests.jsonl` and `timeseries.csv`.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from penstock.predict.observe import Floats, Seen, Spans, prompt_spans, windows
from penstock.predict.sheet import devices
from penstock.predict.stepfile import Named


class Logged(msgspec.Struct):
    """One request; stamps in seconds, `arrival_time` of another clock than the rest."""

    input_toks: int
    output_toks: int
    arrival_time: float
    queued_ts: float
    scheduled_ts: float
    first_token_ts: float
    last_token_ts: float


class ServerLog(msgspec.Struct, kw_only=True):
    """A run as its server logged it. Times are seconds from the first arrival, counts by column.

    `tick_s`, `generated` and `running` come from the time series: until when,
    how many tokens since the row before, and how many sequences then ran.
    """

    named: Named
    max_running: int
    max_step_tokens: int
    kv_tokens: int | None
    page_tokens: int
    arrived: Floats
    scheduled: Floats
    first: Floats
    last: Floats
    prompt: Floats
    output: Floats
    tick_s: Floats
    generated: Floats
    running: Floats

    @property
    def end_s(self) -> float:
        """When the last token came."""
        return float(self.last.max())

    def spans(self, until_s: float | None = None) -> Spans:
        """What of the steps could be told at `until_s` (None: at the end).

        The second's counts say how many steps passed: so many tokens to so
        many sequences. Left out are seconds that may hide work: preempted
        sequences were waiting, and one that ended made room for them to
        compute their tokens anew.
        """
        until = self.end_s if until_s is None else until_s
        before = np.append(0.0, self.tick_s[:-1])
        shown = (self.tick_s <= until) & (self.running > 0) & (self.generated > 0)
        shown &= ~self._hiding(before)
        held = (np.append(0.0, self.running[:-1]) + self.running) / 2
        passed = np.where(shown, self.generated / np.maximum(held, 1.0), 0.0)
        edges, steps = np.append(0.0, self.tick_s), np.append(0.0, np.cumsum(passed))
        seen = self._seen(until, edges, steps)
        counted = windows(
            seen, before[shown], self.tick_s[shown], passed[shown], self.max_step_tokens
        )
        # Tokens are counted; only their contexts had to be told from the requests.
        factor = self.generated[shown] / np.maximum(counted.decodes, 1.0)
        context = counted.context * factor
        counted = counted._replace(decodes=self.generated[shown], context=context)
        return counted.joined(prompt_spans(seen, self.max_step_tokens))

    def _hiding(self, before: Floats) -> npt.NDArray[np.bool_]:
        """Which seconds may hide the work of sequences that resumed."""
        began, ended = np.sort(self.first), np.sort(self.last)
        alive = np.searchsorted(began, before) - np.searchsorted(ended, before)
        preempted = alive - np.append(0.0, self.running[:-1]) >= 1
        done = np.searchsorted(ended, self.tick_s) - np.searchsorted(ended, before)
        hiding: npt.NDArray[np.bool_] = preempted & (done > 0)
        return hiding

    def _seen(self, until: float, edges: Floats, steps: Floats) -> list[Seen]:
        """The requests whose first token had come, their tokens one a step since."""
        found = []
        for i in np.flatnonzero(self.first <= until):
            last = min(self.last[i], until)
            inner = edges[(edges > self.first[i]) & (edges < last)]
            when = np.concatenate([[self.first[i]], inner, [max(last, self.first[i] + 1e-9)]])
            since = np.interp(when, edges, steps) - np.interp(self.first[i], edges, steps)
            tokens = np.minimum(1 + since, self.output[i])
            if self.last[i] <= until:
                tokens[-1] = self.output[i]
            found.append(
                Seen(
                    sent=float(self.arrived[i]),
                    started=float(self.scheduled[i]),
                    prompt=float(self.prompt[i]),
                    cached=0.0,
                    when=when,
                    tokens=tokens,
                )
            )
        return found


def is_log(directory: Path) -> bool:
    """Whether the directory has the files of a server's log."""
    return all((directory / name).exists() for name in ("meta.json", "requests.jsonl"))


def read_log(directory: Path, device: str | None = None) -> ServerLog:
    """Read a log. `device` names the hardware where the log does not.

    Raises `ValueError` naming the file and what it lacks.
    """
    try:
        meta = msgspec.json.decode((directory / "meta.json").read_bytes())
        lines = (directory / "requests.jsonl").read_bytes().splitlines()
        logged = [msgspec.json.decode(line, type=Logged) for line in lines if line.strip()]
        with (directory / "timeseries.csv").open(encoding="utf-8", newline="") as file:
            ticks = list(csv.DictReader(file))
        settings = meta["engine_kwargs"]
        named = _named(meta, device or _device(meta, directory))
        series = [
            np.array([float(row[name]) for row in ticks])
            for name in ("t", "gen_throughput", "running")
        ]
    except (OSError, msgspec.MsgspecError, KeyError, ValueError) as error:
        raise ValueError(f"{directory} is no server's log that can be read: {error}") from error
    if not logged:
        raise ValueError(f"{directory}/requests.jsonl holds no request.")
    logged.sort(key=lambda one: one.arrival_time)
    # The clocks' difference: nobody is queued before it has arrived.
    offset = max(one.arrival_time - one.queued_ts for one in logged)
    start = logged[0].arrival_time - offset

    def column(name: str) -> Floats:
        return np.array([float(getattr(one, name)) for one in logged])

    ticks_s, rates, running = series
    kv = meta.get("kv_cache") or {}
    return ServerLog(
        named=named,
        max_running=int(settings.get("max_num_seqs") or 256),
        max_step_tokens=int(settings.get("max_num_batched_tokens") or 2048),
        kv_tokens=kv.get("num_kv_tokens"),
        page_tokens=int(kv.get("block_size") or 16),
        arrived=column("arrival_time") - offset - start,
        scheduled=column("scheduled_ts") - start,
        first=column("first_token_ts") - start,
        last=column("last_token_ts") - start,
        prompt=column("input_toks"),
        output=column("output_toks"),
        tick_s=ticks_s,
        generated=rates * np.diff(ticks_s, prepend=0.0),
        running=running,
    )


def _named(meta: dict[str, Any], device: str) -> Named:
    settings = meta["engine_kwargs"]
    dp = int(settings.get("data_parallel_size") or 1)
    tp = int(settings.get("tensor_parallel_size") or 1)
    formats = {"bfloat16": "bf16", "float16": "bf16", "auto": "bf16", "float32": "fp32"}
    weights = settings.get("quantization") or settings.get("dtype") or "auto"
    kv = settings.get("kv_cache_dtype") or "auto"
    return Named(
        model=meta["model"],
        device=device,
        weights=formats.get(weights, weights),
        kv=formats.get(kv, kv.partition("_")[0]),
        tp=tp,
        dp=dp,
        ep=tp * dp if settings.get("enable_expert_parallel") else 1,
    )


def _device(meta: dict[str, Any], directory: Path) -> str:
    """The sheet whose name is in what the log calls the hardware, or the directory's name."""
    said = f"{(meta.get('hardware') or {}).get('device_name', '')} {directory.resolve().name}"
    plain = "".join(each for each in said.lower() if each.isalnum())
    found = [name for name in devices() if name.replace("-", "") in plain]
    if not found:
        raise ValueError(
            f"the log does not say on which hardware it ran ({said.strip()}); name it with --on."
        )
    return max(found, key=len)
