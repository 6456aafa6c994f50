"""Workloads by name, as a user writes them: `chat`, `rag:8,512`, `sessions:2-8,10`.

A preset is data: lengths, load and limits, each with where it comes from. What
the user says of lengths, load or limits goes before a preset's.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from penstock.workload.agents import Agent
from penstock.workload.arrivals import Arrival, Poisson
from penstock.workload.lengths import Lengths
from penstock.workload.sessions import Sessions
from penstock.workload.shapes import Plain, Prefix, Rag, Shape


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """A shape, and what usually goes with it. None: as the options say.

    `slos` is written as `parse_slos` reads it. `why` says of each figure where
    it comes from, or that it is our choice.
    """

    name: str
    shape: Shape = Plain()
    input_len: Lengths | None = None
    output_len: Lengths | None = None
    arrival: Arrival | None = None
    concurrency: int | None = None
    slos: str = ""
    why: dict[str, str] = {}


def _lognormal(mean: float, sd: float) -> Lengths:
    return Lengths(kind="lognormal", a=mean, b=sd)


_AZURE = (
    "mean and standard deviation of {} in the Azure LLM inference trace of 2023 "
    "(Patel et al., Splitwise, ISCA 2024), drawn log-normally"
)
_MLPERF = "MLPerf Inference's limits for {}"

PRESETS = {
    preset.name: preset
    for preset in (
        Workload(
            name="voice",
            input_len=_lognormal(500, 300),
            output_len=_lognormal(60, 30),
            arrival=Poisson(1.0),
            slos="ttft.p99<0.3s,tpot.p99<100ms",
            why={
                "input_len": "our choice: an instruction and a few spoken turns",
                "output_len": "our choice: two or three spoken sentences",
                "arrival": "our choice of rate; callers are independent, hence Poisson",
                "slos": "our choice: people answer each other after about 0.2 s (Stivers et al., "
                "PNAS 2009), and recognition and speech take their part; at 100 ms a token, text "
                "comes at some 7 words/s, over twice as fast as it is spoken",
            },
        ),
        Workload(
            name="chat",
            input_len=_lognormal(1155, 1109),
            output_len=_lognormal(211, 163),
            arrival=Poisson(1.0),
            slos="ttft.p99<2s,tpot.p99<200ms",
            why={
                "input_len": _AZURE.format("conversations"),
                "output_len": _AZURE.format("conversations"),
                "arrival": "our choice of rate; users are independent, hence Poisson",
                "slos": _MLPERF.format("Llama 2 70B, server scenario"),
            },
        ),
        Workload(
            name="coding",
            input_len=_lognormal(2048, 1974),
            output_len=_lognormal(28, 60),
            arrival=Poisson(1.0),
            slos="ttft.p99<0.45s,tpot.p99<40ms",
            why={
                "input_len": _AZURE.format("code completions"),
                "output_len": _AZURE.format("code completions"),
                "arrival": "our choice of rate; programmers are independent, hence Poisson",
                "slos": _MLPERF.format("Llama 2 70B, interactive scenario")
                + ": a completion that comes after the next keystroke is of no use",
            },
        ),
        Workload(
            name="batch",
            input_len=Lengths(kind="uniform", a=1000, b=1000),
            output_len=Lengths(kind="uniform", a=1000, b=1000),
            concurrency=256,
            why={
                "input_len": "1,000 in and 1,000 out, a common point of published comparisons",
                "output_len": "as for input_len",
                "concurrency": "our choice: enough to fill a server; nobody waits, so no limits",
            },
        ),
    )
}

_COUNT, _NUMBER, _OPTIONAL = r"(\d+)", r"(\d+(?:\.\d*)?|\.\d+)", r"(?:,{})?"


def _sessions(low: str, high: str | None, think_s: str) -> Shape:
    return Sessions(int(low), int(high or low), float(think_s))


def _rag(documents: str, tokens: str, pool: str | None, exponent: str | None) -> Shape:
    return Rag(int(documents), int(tokens), int(pool or 1000), float(exponent or 1))


def _agent(calls: str | None, tries: str | None, tool_s: str | None) -> Shape:
    return Agent(int(calls or 2), int(tries or 3), float(tool_s or 1))


_more = _OPTIONAL.format
FORMS: dict[str, tuple[str, Callable[..., Shape]]] = {
    "plain": ("plain", Plain),
    "prefix:GROUPS,TOKENS": (
        f"prefix:{_COUNT},{_COUNT}",
        lambda groups, tokens: Prefix(int(groups), int(tokens)),
    ),
    "rag:DOCUMENTS,TOKENS[,POOL[,EXPONENT]]": (
        f"rag:{_COUNT},{_COUNT}(?:,{_COUNT}{_more(_NUMBER)})?",
        _rag,
    ),
    "sessions:TURNS,THINK (TURNS as 5 or 2-8)": (
        f"sessions:{_COUNT}(?:-{_COUNT})?,{_NUMBER}",
        _sessions,
    ),
    "agent[:CALLS,TRIES,SECONDS]": (f"agent(?::{_COUNT},{_COUNT},{_NUMBER})?", _agent),
}


def parse_workload(text: str) -> Workload:
    """Read a preset or a shape; a prompt's own part is as long as the options say.

    Raises `ValueError` saying what may be written, or which number is out of range.
    """
    text = text.strip()
    if text in PRESETS:
        return PRESETS[text]
    for pattern, make in FORMS.values():
        if match := re.fullmatch(pattern, text):
            return Workload(name=text, shape=make(*match.groups()))
    raise ValueError(
        f"cannot read the workload {text!r}; write {', '.join(PRESETS)}, or one of "
        f"{'; '.join(FORMS)} (lengths in tokens, times in seconds)"
    )
