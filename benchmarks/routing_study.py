"""Does it pay to route by prefix? A published study of eight pods, simulated.

llm-d's measurement: eight pods of two H100 serve Qwen3-32B with KV for
307,328 tokens each; 150 customers have a prefix of 6,000 tokens, five users
each ask 1,200 more, again and again: 73 % of what all pods can keep, six times what one can.
Requests come at 3 to 60 a second, here as a ramp of five minutes. Published
(output tokens/s; mean and p90 of the time to the first token, s): precise
8,730; 0.30, 0.54. Approximate 6,944; 13.3, 31.1. By load 4,429; 47.0, 94.9.
Random 4,429; 45.3, 92.6. Neither the answers' length was, which is swept, nor how
long the load lasted: waits under overload grow with it, so they are sizes, not figures.

    python -m benchmarks.routing_study --out benchmarks/results/routing_study.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from benchmarks.studies import draw, keep
from penstock.report import look
from penstock.simulate import Fleet, Group, plan_of, simulate
from penstock.simulate.fleet import Routing
from penstock.workload.arrivals import Ramp
from penstock.workload.plan import Plan
from penstock.workload.traces import Trace

PODS, KV_TOKENS = 8, 307_328
CUSTOMERS, USERS, PREFIX, QUERY = 150, 5, 6_000, 1_200
RAMP = Ramp(3.0, 60.0, 300.0)
LIGHT = Ramp(3.0, 15.0, 120.0)
OUTPUTS = (100, 250, 500)
PAGE_TOKENS = 120  # divides prefix and query

# An approximate router goes by what it sent where. llm-d's looks no further into a prompt
# than 256 blocks of 16 tokens, and believes that a pod keeps 31,250 blocks of 64.
ROUTERS = {
    "precise": Routing(policy="kv", stale_s=0.1),
    "approximate, whole prompts": Routing(policy="prefix", cache_tokens=2_000_000),
    "approximate": Routing(policy="prefix", cache_tokens=2_000_000, match_tokens=4_096),
    "by load": Routing(policy="least-loaded"),
    "random": Routing(policy="random"),
}
PUBLISHED = {
    "precise": {"output_tokens_per_s": 8730, "ttft_mean_s": 0.298, "ttft_p90_s": 0.542},
    "approximate": {"output_tokens_per_s": 6944, "ttft_mean_s": 13.3, "ttft_p90_s": 31.08},
    "by load": {"output_tokens_per_s": 4429, "ttft_mean_s": 47.0, "ttft_p90_s": 94.9},
    "random": {"output_tokens_per_s": 4429, "ttft_mean_s": 45.3, "ttft_p90_s": 92.6},
}


def plan(output: int, ramp: Ramp, *, distinct: bool = False) -> Plan:
    """The ramp, each request one of the 750 prompts, drawn evenly; or each one of its own."""
    rng = np.random.default_rng(0)
    at_s = ramp.offsets(rng, seconds=ramp.seconds)
    asked = rng.integers(CUSTOMERS * USERS, size=len(at_s)).tolist()
    if distinct:
        asked = [USERS * each for each in range(len(at_s))]
    # In blocks of a query's length: five of the customer's, one of the user's.
    blocks = PREFIX // QUERY
    first_user = 1_000_000  # beyond all customers
    return plan_of(
        Trace(
            format="routing study",
            at_s=at_s,
            prompt_tokens=np.full(len(at_s), PREFIX + QUERY),
            output_tokens=np.full(len(at_s), output),
            blocks=[
                (
                    (user // USERS * blocks, (user // USERS + 1) * blocks),
                    (first_user + user, first_user + user + 1),
                )
                for user in asked
            ],
            block_tokens=QUERY,
        )
    )


def study(asked: Plan, routers: dict[str, Routing] = ROUTERS) -> dict[str, Any]:
    """Every router under the same requests."""
    group = Group(
        count=PODS,
        model="qwen3-32b",
        device="h100",
        tp=2,
        kv_tokens=KV_TOKENS,
        page_tokens=PAGE_TOKENS,
        policy={"preset": "vllm", "max_running": 256, "max_step_tokens": 8192},
    )
    found = {}
    for name, how in routers.items():
        figures = simulate(Fleet(replicas=(group,), router=how), asked).summary()
        found[name] = {
            "output_tokens_per_s": round(figures["output_throughput"]),
            "ttft_mean_s": round(figures["ttft"]["mean"], 3),
            "ttft_p90_s": round(figures["ttft"]["p90"], 3),
            "tpot_mean_s": round(figures["tpot"]["mean"], 4),
            "cached_share": round(figures["cached_share"], 3),
            "preemptions": figures["preemptions"],
            "seconds": round(figures["seconds"], 1),
        }
    return found


def controls() -> dict[str, Any]:
    """Where there is less to win: a load that every router can carry, shared prefixes or none."""
    some = {name: ROUTERS[name] for name in ("precise", "by load", "random")}
    return {
        "light load": study(plan(250, LIGHT), some),
        "light load, distinct prompts": study(plan(250, LIGHT, distinct=True), some),
    }


def picture(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Throughput and mean wait of each router, by output length."""
    rows = [
        {"router": name, "output": f"answers of {output} tokens", **figures}
        for output, routers in (*found.items(), ("", PUBLISHED))
        for name, figures in routers.items()
    ]
    for row in rows[-len(PUBLISHED) :]:
        row["output"] = "published"
    charts = []
    for field, title, scale in (
        ("output_tokens_per_s", "output tokens/s", alt.Scale(zero=True)),
        ("ttft_mean_s", "mean seconds to the first token", alt.Scale(type="log", domainMin=0.04)),
    ):
        points = alt.Chart(look.data(rows)).mark_point(filled=True, size=70, opacity=0.9)
        names = list(dict.fromkeys(row["output"] for row in rows))
        colours = [both[0] for both in look.ramp(len(names) - 1)] + [look.OTHER[0]]
        charts.append(
            look.bare(
                points.encode(
                    x=alt.X(
                        f"{field}:Q",
                        scale=scale,
                        title=title,
                        axis=alt.Axis(tickCount=5, format=look.ROUND),
                    ),
                    y=alt.Y("router:N", sort=list(ROUTERS), title=None),
                    color=alt.Color(
                        "output:N",
                        scale=alt.Scale(domain=names, range=colours),
                        legend=alt.Legend(title=None, orient="bottom", columns=4),
                    ),
                ).properties(width=380, height=170)
            )
        )
    draw(alt.hconcat(*charts, spacing=40), path)


def main() -> None:
    """Run, print and keep the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--outputs", type=int, nargs="*", default=OUTPUTS, help="tokens")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if options.out is not None and options.out.exists():  # of lengths that are not asked for now
        found = json.loads(options.out.read_text())["by_output_tokens"]
    found |= {str(output): study(plan(output, RAMP)) for output in options.outputs}
    found = {output: found[output] for output in sorted(found, key=int)}
    keep({"published": PUBLISHED, "by_output_tokens": found, "controls": controls()}, options.out)
    if options.picture is not None:
        picture(found, options.picture)


if __name__ == "__main__":
    main()
