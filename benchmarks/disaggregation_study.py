"""Does it pay to split prefill from decode? Eight replicas, whole and split, under the same limits.

Llama 3.1 70B in fp8, two H200 a replica. For each kind of request and link: the
highest Poisson rate at which 95 % of the requests have their first token within 3 s and
95 % their tokens within 30 ms each (200 ms where readers are patient). Whole replicas
have the best of three chunk budgets, split ones the best of several ratios, so that
neither loses for want of tuning.

    python -m benchmarks.disaggregation_study --out benchmarks/results/disaggregation_study.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt

from benchmarks.studies import draw, keep
from penstock.record.slo import parse_slos
from penstock.report import look
from penstock.simulate import Fleet, Group, simulate
from penstock.simulate.fleet import Routing, Split
from penstock.workload.arrivals import Poisson
from penstock.workload.lengths import parse_lengths
from penstock.workload.sketch import Sketches
from penstock.workload.source import Source

REPLICAS = 8
SHARE = 0.95  # of the requests keep each limit
REQUESTS, MOST = 400, 3000  # of a trial


class Kind(NamedTuple):
    """Requests of a kind: lengths, limits, and how many replicas may prefill."""

    prompt: str
    output: str
    limits: str = "ttft<3s,tpot<30ms"
    prefills: tuple[int, ...] = (1, 3, 5, 6)


LONG = ("lognormal:6000,3000", "lognormal:200,100")
KINDS = {
    "long prompts": Kind(*LONG),
    "chat": Kind("lognormal:1155,1109", "lognormal:211,163"),
    "short prompts": Kind("lognormal:150,100", "lognormal:300,200", prefills=(1, 2, 3)),
    "long prompts, patient readers": Kind(*LONG, limits="ttft<3s,tpot<200ms"),
}
LINKS = {"400 Gbit/s": 50e9, "100 Gbit/s": 12.5e9, "25 Gbit/s": 3.1e9}
BUDGETS = (320, 512, 2048)
EXACT = 1.06  # capacity is found to this factor


def group(**more: Any) -> Group:
    """Some replicas."""
    how: dict[str, Any] = {"model": "llama-3.1-70b", "device": "h200", "weights": "fp8", "tp": 2}
    return Group(**how | more)


def whole(budget: int) -> Fleet:
    """Replicas that do both, with chunks of so many tokens."""
    policy = {"preset": "vllm", "max_running": 256, "max_step_tokens": budget}
    groups = (group(count=REPLICAS, policy=policy),)
    return Fleet(replicas=groups, router=Routing(policy="least-loaded"))


def split(prefills: int, link: float) -> Fleet:
    """So many replicas prefill, the others decode."""
    return Fleet(
        replicas=(
            group(count=prefills, role="prefill", link_bytes_per_s=link),
            group(count=REPLICAS - prefills, role="decode", link_bytes_per_s=link),
        ),
        router=Routing(policy="least-loaded"),
        split=Split(),
    )


def capacity(fleet: Fleet, kind: Kind) -> float:
    """Highest rate, in requests/s, at which the limits are kept; 0 where none was found."""
    slos = parse_slos(kind.limits)

    def kept(rate: float) -> bool:
        source = Source(
            prompts=Sketches(),
            input_len=parse_lengths(kind.prompt),
            output_len=parse_lengths(kind.output),
            seed=0,
        )
        # For half a minute, or queues would not show.
        count = min(max(REQUESTS, int(30 * rate)), MOST)
        result = simulate(fleet, source.open(Poisson(rate), count=count))
        return all(result.good([slo]).mean() >= SHARE for slo in slos)

    return highest(kept)


def highest(kept: Callable[[float], bool]) -> float:
    """Climb by doubling, then halve the bracket by its geometric mean."""
    low, high = 0.0, 4.0
    while high < 2000 and kept(high):
        low, high = high, 2 * high
    if not low:
        low, high = 0.25, 4.0
        if not kept(low):
            return 0.0
    while high / low > EXACT:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if kept(middle) else (low, middle)
    return low


def best(tried: dict[Any, float]) -> dict[str, Any]:
    """The best of what was tried, and everything."""
    chosen = max(tried, key=lambda key: tried[key])
    return {
        "requests_per_s": round(tried[chosen], 2),
        "chosen": chosen,
        "tried": {str(key): round(value, 2) for key, value in tried.items()},
    }


def study(kind: Kind) -> dict[str, Any]:
    """Whole against split, for each link."""
    together = best({budget: capacity(whole(budget), kind) for budget in BUDGETS})
    apart = {}
    for name, link in LINKS.items():
        one = best({count: capacity(split(count, link), kind) for count in kind.prefills})
        gain = one["requests_per_s"] / together["requests_per_s"] - 1
        apart[name] = {**one, "against_whole": round(gain, 3)}
    return {**kind._asdict(), "whole": together, "split": apart}


def picture(found: dict[str, Any], path: Path) -> None:
    """What splitting changes, by kind of request and link."""
    rows = [
        {"kind": kind, "link": link, "v": 100 * one["against_whole"]}
        for kind, figures in found.items()
        for link, one in figures["split"].items()
    ]
    names = list(LINKS)
    colours = [both[0] for both in look.ramp(len(names))][::-1]
    bars = (
        alt.Chart(look.data(rows))
        .mark_bar()
        .encode(
            x=alt.X(
                "v:Q",
                title="% more requests/s within the limits than whole replicas",
                axis=alt.Axis(tickCount=8),
            ),
            y=alt.Y("kind:N", sort=list(found), title=None),
            yOffset=alt.YOffset("link:N", sort=names),
            color=alt.Color(
                "link:N",
                scale=alt.Scale(domain=names, range=colours),
                legend=alt.Legend(title="link of a replica", orient="bottom"),
            ),
        )
        .properties(width=640, height=220)
    )
    draw(look.bare(bars), path)


def main() -> None:
    """Run, print and keep the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if options.out is not None and options.out.exists():  # of kinds that are not asked for now
        found = json.loads(options.out.read_text())["kinds"]
    found |= {name: study(KINDS[name]) for name in options.kinds}
    found = {name: found[name] for name in KINDS if name in found}
    keep({"share": SHARE, "kinds": found}, options.out)
    if options.picture is not None:
        picture(found, options.picture)


if __name__ == "__main__":
    main()
