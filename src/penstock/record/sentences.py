"""Three plain sentences: what one user gets, what the system gets, how far from the limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.record.run import Role


def sentences(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say in words what the points of a summary say in numbers.

    The first speaks of the lowest load, the second and third of the point with
    the highest output throughput of those that may be claimed. What was not
    measured is said to be unknown.
    """
    worked = [p for p in points if p["completed"]]
    if not worked:
        failed = sum(p["errors"]["count"] for p in points)
        return [
            f"No request finished; {failed} failed.",
            "So there is no throughput to report.",
            "The errors are listed by class below.",
        ]
    lowest = min(worked, key=lambda p: p["load"]["concurrency"] or p["load"]["rate"] or 0)
    claimed = claimable(worked)
    best = max(claimed, key=lambda p: p["output_throughput"]["value"] or 0)
    left_out = _left_out([p for p in worked if p not in claimed])
    return [_user(lowest), _system(best) + left_out, _limit(best)]


def claimable(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Points by which a system may be judged: VALID ones, none of them past saturation.

    Where no point is VALID those not past saturation, and where there is no such all.
    """
    steady = [p for p in points if p["role"] != Role.OVERLOAD]
    return [p for p in steady if p["verdict"]["valid"]] or steady or list(points)


def _left_out(points: Sequence[Mapping[str, Any]]) -> str:
    past = sum(p["role"] == Role.OVERLOAD for p in points)
    counts = {"past saturation": past, "INVALID": len(points) - past}
    said = [f"{_points(count)} {what}" for what, count in counts.items() if count]
    return f" (Left out: {', '.join(said)}.)" if said else ""


def _points(count: int) -> str:
    return "one operating point" if count == 1 else f"{count} operating points"


def _user(p: Mapping[str, Any]) -> str:
    speed, words = p["user_speed"]["p50"], p["words_per_second"]["p50"]
    wait = p["ttft_from_schedule"]["p50"]
    pace = "text at an unknown pace" if speed is None else f"{number(speed)} tokens/s"
    if speed is not None and words is not None:
        pace += f", about {number(words)} words/s,"
    return (
        f"{load_name(p['load']).capitalize()}, one user of {_model(p)} gets {pace} and waits "
        f"{seconds(wait)} for the first token{_shape(p)}."
    )


def _system(p: Mapping[str, Any]) -> str:
    total, each = p["output_throughput"]["value"], p["user_speed"]["p50"]
    share = "" if each is None else f" in all, {number(each)} to each user"
    return (
        f"{load_name(p['load']).capitalize()}, the system delivers "
        f"{'an unknown number of' if total is None else number(total)} output tokens/s{share}"
        f"{_tail(p['ttft_from_schedule'])}."
    )


def _limit(p: Mapping[str, Any]) -> str:
    limit = p["limit"]
    if limit["fraction"] is None:
        return f"How far that is from the hardware's limit is not known: {limit['basis']}."
    return (
        f"That is {number(100 * limit['fraction'])} % of the "
        f"{number(limit['output_throughput'])} tokens/s that this hardware's {limit['binds']} "
        "allows at that load."
    )


def _model(p: Mapping[str, Any]) -> str:
    """The model and, as far as they are known, its precision and hardware."""
    conditions = p["conditions"]
    name, unknown = conditions.get("model", "the model"), (None, "unknown")
    precision, hardware = conditions.get("precision"), conditions.get("hardware")
    where = [] if precision in unknown else [f"in {precision}"]
    where += [] if hardware in unknown else [f"on {hardware}"]
    return f"{name} ({' '.join(where)})" if where else str(name)


def _tail(wait: Mapping[str, Any]) -> str:
    """What most users wait at most, at the highest percentile that has enough samples."""
    for quantile, users in (("p99", "99 in 100"), ("p90", "9 in 10"), ("p50", "half of the")):
        if wait["n"] >= wait["needs"][quantile]:
            return f"; {users} users see the first token within {seconds(wait[quantile])}"
    return ""


def load_name(load: Mapping[str, Any]) -> str:
    """What was offered, in words that may follow "measured"."""
    if load["kind"] == "closed":
        return "alone" if load["concurrency"] == 1 else f"with {load['concurrency']} at once"
    if load["kind"] == "open":
        return f"at {load['rate']:g} requests/s"
    return "under the trace" if load["rate"] is None else f"under the trace ({load['rate']:.3g}/s)"


def _shape(p: Mapping[str, Any]) -> str:
    done, tokens = p["requests"], p["tokens"]
    if not done or tokens["prompt"] is None or tokens["output"] is None:
        return ""
    return (
        f" ({number(tokens['prompt'] / done)} prompt and {number(tokens['output'] / done)} "
        "output tokens a request)"
    )


def number(value: float) -> str:
    """Three significant digits, thousands separated: 1,230 · 45.6 · 0.789."""
    if abs(value) >= 100:
        magnitude = 10 ** max(len(str(int(abs(value)))) - 3, 0)
        return f"{round(value / magnitude) * magnitude:,}"
    return f"{value:.3g}"


def seconds(value: float | None) -> str:
    """A duration in the unit a reader would choose."""
    if value is None:
        return "an unknown time"
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"
