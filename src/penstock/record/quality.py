"""Quality with throughput: how many answers were right, and how many right ones a second.

Where a task was sampled several times its answer is what most samples say
(self-consistency, Wang et al. 2022), and there is one answer to a task however
many samples it took. Errors, and answers that were cut or empty, have no vote
and are wrong: a task that nobody answers is answered wrongly.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from scipy import stats as st

from penstock.record import metrics
from penstock.record.record import Record
from penstock.record.run import Point
from penstock.record.stats import (
    Estimate,
    Interval,
    interval,
    of_batches,
    of_repeats,
    t_interval,
)
from penstock.record.steady import SLICES, Window, whole_run
from penstock.record.tally import tally


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one task: `right` by majority, `share` of its samples that were right."""

    task: str
    right: bool
    share: float
    at_ns: int  # when the last sample had come, and the vote could be held


def majority(samples: Iterable[Record]) -> Record | None:
    """The first of the samples that say what most of them say; None if none says anything.

    Of answers that are equally frequent the one that was said first wins, by
    sample, not by time: samples are drawn alike, so that is as fair as a lot.
    """
    in_order = sorted(samples, key=lambda r: r.sample)
    answer = tally(r.answer for r in in_order).winner
    return next((r for r in in_order if answer is not None and r.answer == answer), None)


def votes(records: Iterable[Record], samples: int) -> list[Vote]:
    """One vote for each task all of whose samples are over and graded."""
    by_task: dict[str, list[Record]] = {}
    for record in records:
        if record.task is not None and record.correct is not None:
            by_task.setdefault(record.task, []).append(record)
    held = []
    for task, group in by_task.items():
        if len(group) < samples:
            continue
        winner = majority(group)
        held.append(
            Vote(
                task=task,
                right=winner is not None and bool(winner.correct),
                share=sum(bool(r.correct) for r in group) / len(group),
                at_ns=max(r.last_ns or r.end_ns or r.sched_ns for r in group),
            )
        )
    return held


def samples_of(point: Point) -> int:
    """How often each task of an operating point was asked."""
    return int(point.conditions.get("samples_per_prompt") or 1)


def right_arrivals(held: Iterable[Vote]) -> metrics.Arrivals:
    """Tasks whose vote was right, credited when their last sample came."""
    times = [v.at_ns for v in held if v.right]
    return np.asarray(times, dtype=np.int64), np.ones(len(times), dtype=np.int64)


def over_tasks(held: Iterable[Vote]) -> Estimate | None:
    """The share of tasks whose vote was right, with its error over tasks; None of fewer than two.

    A task that was asked in several repeats is one part with the mean of its
    votes, since they are alike; of single votes this is the error of a
    proportion. One right and one wrong task are added for the error, not for
    the value, without which a share of 0 or 1 would have none (Agresti & Caffo,
    The American Statistician 54 (2000)).
    """
    by_task: dict[str, list[bool]] = {}
    for vote in held:
        by_task.setdefault(vote.task, []).append(vote.right)
    shares = [sum(rights) / len(rights) for rights in by_task.values()]
    error = of_repeats([*shares, 0.0, 1.0])
    if error is None or len(shares) < 2:
        return None
    return Estimate(float(np.mean(shares)), error.se, error.df)


def wilson(right: float, n: int) -> Interval | None:
    """95 % score interval of a share (Wilson 1927); None of nothing.

    `right` may be a sum of shares, such as the chances of n tasks to be right:
    shares vary no more than draws with the same mean, so the interval is wide enough.
    """
    if not n:
        return None
    share, z = right / n, float(st.norm.ppf(0.975))
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return [max(centre - half, 0.0), min(centre + half, 1.0)]


def quality(point: Point, window: Window) -> dict[str, Any] | None:
    """How good the answers of one operating point were; None if it asked no tasks.

    `accuracy` is of tasks, by majority; `sample_accuracy` of single samples, its
    interval over tasks, since samples of one task are alike; `any_right` of
    tasks with one right sample at least (pass@n, Chen et al. 2021).
    `correct_per_s` counts tasks whose vote was right when their last sample came.
    """
    asked = [r for r in point.records if r.task is not None]
    if not asked:
        return None
    samples = samples_of(point)
    held = votes(asked, samples)
    tasks = len({r.task for r in asked})
    wrong = Counter((r.wrong_why or "wrong").partition(":")[0] for r in asked if r.correct is False)
    return {
        "samples": samples,
        "tasks": tasks,
        "judged": len(held),
        "incomplete": tasks - len(held),
        "accuracy": _share([v.right for v in held]),
        "any_right": _share([v.share > 0 for v in held]),
        "sample_accuracy": _mean_share([v.share for v in held]),
        "correct": sum(v.right for v in held),
        "correct_per_s": _per_second(held, point, window),
        "samples_right": sum(bool(r.correct) for r in asked),
        "samples_wrong": dict(wrong.most_common()),
    }


def over_repeats(repeats: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Several repeats as one: means, Student's t over them, and sums of counts."""
    known = [r for r in repeats if r is not None]
    if not known:
        return None
    first = known[0]
    merged = {
        **first,
        "samples_wrong": dict(sum((Counter(r["samples_wrong"]) for r in known), Counter())),
    }
    for key in ("judged", "incomplete", "correct", "samples_right"):
        merged[key] = sum(r[key] for r in known)
    for key in ("accuracy", "any_right", "sample_accuracy", "correct_per_s"):
        values = [r[key]["value"] for r in known if r[key]["value"] is not None]
        merged[key] = {
            **first[key],
            "value": float(np.mean(values)) if values else None,
            "ci95": t_interval(values),
        }
    return merged


def _share(which: Sequence[bool]) -> dict[str, Any]:
    n, right = len(which), sum(which)
    return {"value": right / n if n else None, "ci95": wilson(right, n)}


def _mean_share(shares: Sequence[float]) -> dict[str, Any]:
    if all(share in (0, 1) for share in shares):
        return _share([share == 1 for share in shares])
    found = t_interval(shares)
    return {
        "value": float(np.mean(shares)),
        "ci95": found and [max(found[0], 0.0), min(found[1], 1.0)],
    }


def _per_second(held: Sequence[Vote], point: Point, window: Window) -> dict[str, Any]:
    arrivals, all_of_it = right_arrivals(held), whole_run(point)
    slices = metrics.rates(arrivals, window.start_ns, window.end_ns, SLICES)
    return {
        "value": float(slices.mean()),
        "unit": "correct answers/s",
        "ci95": None if window.whole_run else interval(of_batches(slices.tolist())),
        "whole_run": float(metrics.rates(arrivals, all_of_it.start_ns, all_of_it.end_ns)[0]),
    }
