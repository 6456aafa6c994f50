"""What techniques cost whoever has them switched off: this project before them, and now.

    git worktree add ../before 0cf2321~1
    python -m benchmarks.overhead_off --before ../before \
        --out benchmarks/results/overhead_off.json
    git worktree remove ../before

Each tree runs in a process of its own, with the same interpreter, model and requests,
greedy, nothing switched on. They take turns after every few steps, everyone as often first
as last, so that whatever slows the machine for longer slows all; and they take the very
same steps. The present tree runs twice: how far its two processes are apart is what the
method itself is off by.

Where memory lies is worth up to two percent for as long as a process lives. So all are
started anew for every round, and the 95 % intervals are bootstrapped (BCa) over rounds.

Host is what a step takes outside the model: scheduling, laying out, drawing, accounting. It
is the step without `Spent.model`, since the trees draw the lines between the other parts
elsewhere; those are told as they are. With the same --out it goes on where it stopped.
"""

from __future__ import annotations

import subprocess
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy import stats

from benchmarks.common import Study, arguments
from benchmarks.lanes import ratio
from benchmarks.trees import OUTPUT, PARTS, PROMPT, ROOT, Sums, Tree
from penstock import models

LANES = ("before", "now", "again")  # again: the present tree in another process
LEAST = 6  # rounds for an interval

Round = dict[str, Sums]  # by lane


class Steps(Protocol):
    """Who takes steps when asked to."""

    def block(self, steps: int) -> Sums:
        """What so many steps take."""


def measure(trees: Mapping[str, Steps], steps: int, seconds: float) -> Round:
    """What at least so many seconds of each tree hold, in turns of so many steps.

    Each is as often first as last: what grows evenly meanwhile is the same for all.
    Raises `RuntimeError` where they did not say as many tokens.
    """
    order = deque(trees)
    sums: Round = {name: {} for name in trees}
    while min(each.get("seconds", 0.0) for each in sums.values()) < seconds:
        for _ in trees:
            for name in order:
                for what, figure in trees[name].block(steps).items():
                    sums[name][what] = sums[name].get(what, 0) + figure
            order.rotate()
        if len({each["tokens"] for each in sums.values()}) > 1:
            said = ", ".join(f"{name} {each['tokens']}" for name, each in sums.items())
            raise RuntimeError(f"the trees did not take the same steps; tokens said: {said}.")
    return sums


def cell(rounds: list[Round]) -> dict[str, Any]:
    """What all rounds of one number of requests at once say."""
    keys = rounds[0]["now"]
    totals = {lane: {key: sum(r[lane][key] for r in rounds) for key in keys} for lane in LANES}

    def ms(part: str) -> dict[str, float]:
        return {lane: round(1e3 * t[part] / t["steps"], 4) for lane, t in totals.items()}

    for total in totals.values():
        total["host"] = host_s(total)
    return {
        "rounds": len(rounds),
        "steps": totals["now"]["steps"],
        "speed": speed(rounds, "now", "before"),
        "method": speed(rounds, "again", "now"),
        "more_host": more_host(rounds),
        "step_ms": ms("seconds"),
        "host_ms": ms("host"),
        "parts_ms": {part: ms(part) for part in PARTS},
    }


def host_s(sums: Sums) -> float:
    """Seconds outside the model."""
    return sums["seconds"] - sums["model"]


def speed(rounds: list[Round], one: str, other: str) -> dict[str, float]:
    """Tokens per second of a lane over those of another, with the interval."""
    both = [(each[one], each[other]) for each in rounds]
    return ratio(
        np.array([[a["tokens"], a["seconds"], b["tokens"], b["seconds"]] for a, b in both])
    )


def more_host(rounds: list[Round]) -> dict[str, float]:
    """What the host's part takes more than before, as a share of the step before."""
    pairs = [(each["now"], each["before"]) for each in rounds]
    rows = np.array([[host_s(now) - host_s(then), then["seconds"]] for now, then in pairs])

    def share(*sums: NDArray[np.float64], axis: int) -> Any:
        beyond, seconds = (each.sum(axis) for each in sums)
        return beyond / seconds

    found = stats.bootstrap(tuple(rows.T), share, paired=True, n_resamples=5000, rng=0)
    low, high = found.confidence_interval
    figures = {"share": share(*rows.T, axis=0), "low95": low, "high95": high}
    return {name: round(float(figure), 5) for name, figure in figures.items()}


def one_round(given: Any, number: int, study: Study) -> None:
    """Start all anew, and measure each number of requests at once."""
    before, model = given.before.resolve(), models.path(given.model).resolve()
    paths = {lane: before if lane == "before" else ROOT for lane in LANES}
    most = max(given.batches)
    trees = {lane: Tree(path, model, most) for lane, path in paths.items()}
    try:
        told = {lane: tree.told() for lane, tree in trees.items()}["now"]
        told |= {"model": given.model, "prompt": PROMPT, "output": [*OUTPUT]}
        study.under(told | {"turn": given.steps, "seconds": given.seconds})
        for batch in given.batches:
            for tree in trees.values():
                tree.begin(batch, number)
            value = measure(trees, given.steps, given.seconds)
            study.put("rounds", str(batch), str(number), value=value)
    finally:
        for tree in trees.values():
            tree.end()


def commit(tree: Path) -> str:
    """The last commit that changed the sources of a checkout."""
    command = ["git", "-C", str(tree), "log", "-1", "--format=%h", "--", "src"]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.strip()


def main() -> None:
    """Every round that is not known yet, and publish."""
    parser = arguments(__doc__)
    parser.set_defaults(rounds=14)
    parser.add_argument("--before", type=Path, required=True, help="a checkout without them")
    parser.add_argument("--batches", default="1,8,32", help="requests at once, by commas")
    parser.add_argument("--seconds", type=float, default=1.2, help="of each tree, in each round")
    parser.add_argument("--steps", type=int, default=4, help="in a turn")
    given = parser.parse_args()
    given.batches = [int(count) for count in given.batches.split(",")]
    study = Study(given.out)
    commits = {"before": commit(given.before), "now": commit(ROOT)}
    if study.has("commits") and study.result["commits"] != commits:
        parser.error(f"{given.out} is of {study.result['commits']}, not {commits}: remove it.")
    study.put("commits", value=commits)
    last = str(given.batches[-1])
    left = [n for n in range(given.rounds) if not study.has("rounds", last, str(n))]
    for number in track(left, "rounds"):
        one_round(given, number, study)
    for batch, rounds in study.result["rounds"].items():
        if len(rounds) >= LEAST:
            study.put("cells", batch, value=cell(list(rounds.values())))
            print(batch, "at once:", study.result["cells"][batch])


if __name__ == "__main__":
    main()
