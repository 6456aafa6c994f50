"""The figures of a run as rows of text, operating points side by side; every report shows these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from penstock.record.sentences import claimable, number

Points = Sequence[Mapping[str, Any]]
NONE = "–"
LATENCIES = {
    "ttft": "Time to first token",
    "ttft_from_schedule": "… from schedule",
    "tpot": "Time per output token",
    "itl": "Gap between events",
    "e2e": "Whole answer",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure as text; `spread` is its 95 % interval, `doubtful` that it has few samples."""

    text: str
    spread: str = ""
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity in one unit, a cell for each operating point.

    Rows of one label that follow each other differ in `detail`, the quantile.
    """

    label: str
    unit: str
    cells: list[Cell]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Rows that belong together."""

    title: str
    rows: list[Row]

    def groups(self) -> list[list[Row]]:
        """The rows, those of one label together."""
        return [list(rows) for _, rows in groupby(self.rows, key=lambda row: row.label)]


def heading(point: Mapping[str, Any]) -> str:
    """The load of an operating point in two or three words."""
    quality = point["quality"]
    return _load(point["load"]) + (f", n = {quality['samples']}" if quality else "")


def _load(load: Mapping[str, Any]) -> str:
    if load["kind"] == "closed":
        return f"{load['concurrency']:,} at once"
    rate = NONE if load["rate"] is None else f"{number(load['rate'])} req/s"
    return rate if load["kind"] == "open" else "trace" if rate == NONE else f"trace, {rate}"


def sections(points: Points, quantiles: Sequence[str] = ("p50", "p90", "p99")) -> list[Section]:
    """All figures of these points, throughput apart from latency."""
    every = [
        Section("One user gets", list(_user(points))),
        Section("The system gets", list(_system(points))),
        Section("Answers", list(_answers(points))),
        Section("Sessions", list(_sessions(points))),
        Section("Guesses ahead", list(_guesses(points))),
        Section("It costs", list(_costs(points))),
        Section("Latency", list(_latency(points, quantiles))),
        Section("What it rests on", list(_basis(points))),
    ]
    return [section for section in every if section.rows]


def _user(points: Points) -> Iterator[Row]:
    yield _row(points, "Speed", "tokens/s", lambda p: p["user_speed"]["p50"], "p50")
    yield _row(points, "Speed", "tokens/s", lambda p: p["user_speed"]["p10"], "p10")
    yield _row(points, "Words", "words/s", lambda p: p["words_per_second"]["p50"], "p50")


def _system(points: Points) -> Iterator[Row]:
    for key, label, unit in (
        ("output_throughput", "Output", "tokens/s"),
        ("input_throughput", "Input", "tokens/s"),
        ("request_throughput", "Requests", "requests/s"),
    ):
        cells = [Cell(figure(p[key]["value"]), _half_width(p[key]["ci95"])) for p in points]
        yield Row(label, unit, cells)
    if any(p["goodput"]["slo"] for p in points):
        yield _row(points, "Goodput", "requests/s", lambda p: p["goodput"]["requests_per_s"])
        yield _row(points, "Within SLO", "%", lambda p: _percent(p["goodput"]["share"]))
    yield _row(points, "Hardware limit", "tokens/s", lambda p: p["limit"]["output_throughput"])
    yield _row(points, "Share of limit", "%", lambda p: _percent(p["limit"]["fraction"]))


def _answers(points: Points) -> Iterator[Row]:
    """How good answers were, where tasks were asked."""
    if not any(p["quality"] for p in points):
        return
    for key, label, unit, scale in (
        ("accuracy", "Right, by majority", "%", 100),
        ("any_right", "One sample right", "%", 100),
        ("correct_per_s", "Right answers", "a second", 1),
    ):
        found = [(p["quality"] or {}).get(key, _NOTHING) for p in points]
        cells = [Cell(figure(f["value"], scale), _half_width(f["ci95"], scale)) for f in found]
        yield Row(label, unit, cells)
    yield _row(points, "Tasks", "judged", lambda p: p["quality"] and p["quality"]["judged"])


def _sessions(points: Points) -> Iterator[Row]:
    """What became of sessions and agents' tasks, where there were any."""
    if not any(p["sessions"] for p in points):
        return
    found = [p["sessions"] or {} for p in points]
    for key, label, unit in (
        ("completed_per_s", "Completed", "a second"),
        ("turns_mean", "Turns of each", "on average"),
        ("seconds_p50", "Time of each", "s, p50"),
    ):
        yield Row(label, unit, [Cell(figure(each.get(key))) for each in found])
    for end, label in (("given_up", "Given up"), ("broken", "Broken")):
        if any(end in each.get("ends", {}) for each in found):
            yield Row(label, "sessions", [Cell(figure(e.get("ends", {}).get(end))) for e in found])
    yield Row("Still open", "sessions", [Cell(figure(each.get("open"))) for each in found])


def _guesses(points: Points) -> Iterator[Row]:
    """What guessing tokens brought and took, where the server told."""
    found = [p.get("guesses") or {} for p in points]  # runs of before it was kept have none
    for key, label, unit, scale in (
        ("tokens_per_step", "Tokens a step", "a sequence", 1),
        ("accepted_share", "Guesses right", "%", 100),
        ("time_share", "Time guessing", "%", 100),
    ):
        if any(each.get(key) is not None for each in found):
            yield Row(label, unit, [Cell(figure(each.get(key), scale)) for each in found])


_NOTHING: Mapping[str, Any] = {"value": None, "ci95": None}
_COSTS = {
    "output_tokens": ("Output tokens", "a million", 1),
    "input_tokens": ("Input tokens", "a million", 1),
    "total_tokens": ("Both together", "a million", 1),
    "request": ("Requests", "a thousand", 1000),
    "correct_answer": ("Right answers", "a thousand", 1000),
}


def _costs(points: Points) -> Iterator[Row]:
    """In the currency of the price, where one was given; and energy, where it was counted."""
    costs = [p["cost"] for p in points if p["cost"]]
    for key, (label, unit, scale) in _COSTS.items():
        if any(cost[key] is not None for cost in costs):
            yield Row(label, unit, [Cell(figure(cost[key], scale)) for cost in costs])
    if any(power(p) for p in points):
        yield _row(points, "Power", "W", lambda p: power(p).get("watts"))
        yield _row(points, "Energy", "J a token", joules)


def power(point: Mapping[str, Any]) -> Mapping[str, Any]:
    """Watts and joules of a point; empty where no counter of energy was read."""
    found: Mapping[str, Any] | None = point.get("power")  # runs of before it was kept have none
    return found or {}


def joules(point: Mapping[str, Any]) -> float | None:
    """Joules of an output token."""
    found: float | None = power(point).get("joules_per_output_token")
    return found


def _latency(points: Points, quantiles: Sequence[str]) -> Iterator[Row]:
    for key, label in LATENCIES.items():
        known = [p[key][q] for p in points for q in quantiles if p[key][q] is not None]
        in_seconds = max(known, default=0.0) >= 1
        for quantile in quantiles:
            cells = [
                Cell(
                    figure(p[key][quantile], 1 if in_seconds else 1000),
                    _half_width(p[key]["intervals"][quantile], 1 if in_seconds else 1000),
                    doubtful=0 < p[key]["n"] < p[key]["needs"][quantile],
                )
                for p in points
            ]
            yield Row(label, "s" if in_seconds else "ms", cells, detail=quantile)


def _basis(points: Points) -> Iterator[Row]:
    yield _row(points, "Finished", "requests", _requests)
    if any(p["completed"] != _requests(p) for p in points):
        yield _row(points, "… choices", "of them", lambda p: p["completed"])
    yield _row(points, "Errors", "requests", lambda p: p["errors"]["count"])
    if any(p["cancelled"] for p in points):
        yield _row(points, "Cancelled", "requests", lambda p: p["cancelled"])
    if any(p["unfinished"] for p in points):
        yield _row(points, "Unfinished", "requests", lambda p: p["unfinished"])
    if any(p["wasted_tokens"] for p in points):
        yield _row(points, "Wasted output", "tokens", lambda p: p["wasted_tokens"])
    yield _row(points, "Window", "s", lambda p: p["window"]["seconds"])
    yield Row("Window is", "", [Cell(window_kind(p["window"])) for p in points])


def _requests(point: Mapping[str, Any]) -> int:
    """Finished ones; runs of before they were counted apart had one choice each, mostly."""
    count: int = point.get("requests", point["completed"])
    return count


def windows(points: Points) -> list[str]:
    """For each point where its window lies, and what was left out for the start's sake."""
    return [f"{heading(p)}: {_window(p)}" for p in points]


def _window(point: Mapping[str, Any]) -> str:
    window = (point["repeats"] or [point])[0]["window"]
    said = f"from {window['start_s']:.3g} to {window['end_s']:.3g} s of the load"
    if window["trimmed_s"]:
        said += f", {window['trimmed_s']:.2g} s trimmed"
    if len(point["repeats"]) > 1:
        said += f" in the first of {len(point['repeats'])} repeats"
    return said + (f"; {window['reason']}" if window["reason"] else "")


def window_kind(window: Mapping[str, Any]) -> str:
    """Whether the figures come from a steady state."""
    if window["whole_run"]:
        return "whole run"
    return "steady" if window["steady"] else "drifting"


@dataclass(frozen=True, slots=True)
class Reasons:
    """Why figures may not be claimed: the findings that have one remedy, and that remedy."""

    says: list[str]
    remedy: str


def reasons(verdict: Mapping[str, Any], most: int = 3) -> list[Reasons]:
    """The reasons of a verdict by remedy; of a kind that holds at many loads the first `most`."""
    remedies: dict[str, dict[str, list[str]]] = {}
    for reason in verdict["reasons"]:
        at = f"{reason['at']}: " if reason["at"] else ""
        kinds = remedies.setdefault(reason["remedy"], {})
        kinds.setdefault(reason["code"], []).append(at + reason["says"])
    return [
        Reasons([said for says in kinds.values() for said in _first(says, most)], remedy)
        for remedy, kinds in remedies.items()
    ]


def _first(says: list[str], most: int) -> list[str]:
    left = len(says) - most
    return says if left <= 0 else [*says[:most], f"and {left} more like it"]


def capacity(summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The capacity at SLO that was searched for, if any was."""
    found: Mapping[str, Any] | None = summary["capacity"]
    return found


def findings(summary: Mapping[str, Any]) -> list[str]:
    """Sentences about capacity and cost, where they were asked for."""
    said = []
    if (found := capacity(summary)) is not None:
        said.append(_capacity(found))
    if summary["swept"] is not None:
        said.append(f"The climb ended: {summary['swept']['stopped']}.")
    priced = [p for p in summary["points"] if p["cost"] and p["cost"]["output_tokens"]]
    if priced:
        best = min(claimable(priced), key=lambda p: p["cost"]["output_tokens"])
        each = best["cost"]["correct_answer"]
        right = f", a thousand right answers {figure(each, 1000)}" if each is not None else ""
        said.append(
            f"At {best['cost']['price']}, a million output tokens cost "
            f"{figure(best['cost']['output_tokens'])} and a thousand requests "
            f"{figure(best['cost']['request'], 1000)}{right} ({heading(best)})."
        )
    return said


def _capacity(found: Mapping[str, Any]) -> str:
    limits = ", ".join(found["slo"])
    if found["load"] is None:
        return f"The capacity under {limits} is not known: {found['reason']}."
    between = found["ci95"]
    range_ = f" (95 % interval {number(between[0])} to {number(between[1])})" if between else ""
    return f"Under {limits} it carries {number(found['load'])} {found['unit']}{range_}."


def spread(sections: Sequence[Section]) -> bool:
    """Whether a cell has an interval, so that all need room for one."""
    return any(cell.spread for part in sections for row in part.rows for cell in row.cells)


def doubts(points: Points, quantiles: Sequence[str] = ("p50", "p90", "p99")) -> str | None:
    """Why some figures are marked, or None when none is."""
    for key in LATENCIES:
        for point in points:
            needs, n = point[key]["needs"], point[key]["n"]
            for quantile in quantiles:
                if 0 < n < needs[quantile]:
                    wants = ", ".join(f"{q} {needs[q]}" for q in quantiles)
                    return f"* from fewer samples than this percentile needs ({wants})"
    return None


def _row(
    points: Points,
    label: str,
    unit: str,
    value: Callable[[Mapping[str, Any]], float | None],
    detail: str = "",
) -> Row:
    return Row(label, unit, [Cell(figure(value(p))) for p in points], detail)


def figure(value: float | None, scale: float = 1) -> str:
    """Three significant digits, trailing zeros kept so that columns line up; counts in full."""
    if value is None:
        return NONE
    if isinstance(value, int):
        return f"{value:,}"
    scaled = value * scale
    return number(scaled) if abs(scaled) >= 99.95 or scaled == 0 else f"{scaled:#.3g}"


def duration(value: float | None) -> str:
    """Seconds in the unit a reader would choose."""
    if value is None:
        return NONE
    return f"{figure(value)} s" if value >= 1 else f"{figure(value * 1000)} ms"


def percent(share: float | None) -> str:
    """A share as text."""
    return NONE if share is None else f"{share * 100:.3g} %"


def _percent(share: float | None) -> float | None:
    return None if share is None else share * 100


def _half_width(interval: Sequence[float] | None, scale: float = 1) -> str:
    """Two digits: an interval is not known better. Nothing where nothing varied."""
    if interval is None or interval[0] == interval[1]:
        return ""
    half = (interval[1] - interval[0]) / 2 * scale
    return f"± {number(half)}" if half >= 100 else f"± {half:.2g}"


def moment(started: str) -> str:
    """An ISO 8601 time in UTC as a reader would write it."""
    at = datetime.fromisoformat(started)
    return f"{at.day} {at:%B %Y, %H:%M} UTC"


def conditions(points: Points) -> list[tuple[str, list[str]]]:
    """Each condition's name with one value where all points share it, else one a point."""
    names = dict.fromkeys(name for p in points for name in p["conditions"])
    table = []
    for name in names:
        values = [_condition(p["conditions"].get(name)) for p in points]
        shared = len(set(values)) == 1
        table.append((name.replace("_", " "), values[:1] if shared else values))
    return table


def _condition(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if isinstance(value, float) else str(value)
