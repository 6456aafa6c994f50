"""What is drawn of capacity, limits, quality, cost, repeats and the server, and what is not."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from penstock.record.price import parse_price
from penstock.record.run import Role, Swept
from penstock.record.series import Series
from penstock.record.slo import parse_slos
from penstock.report import figures, html, look, table
from penstock.report.figures import server
from penstock.report.view import View, featured, gaps
from tests.report.page import Page
from tests.report.runs import closed_point, dead_point, make_run, open_point

HOSTILE = '</text></svg><script>alert(1)</script>"<img src=x onerror=alert(2)>'


def rows(chart) -> list[dict]:
    """Every row of every data set of a chart, once."""
    found: dict[str, dict] = {}

    def walk(part):
        if isinstance(part, str) and part.startswith("[{"):
            found.update((json.dumps(row), row) for row in json.loads(part))
        for value in part.values() if isinstance(part, dict) else ():
            walk(value)
        for value in part if isinstance(part, list) else ():
            walk(value)

    walk(json.loads(chart.to_json()))
    return list(found.values())


def tasked(samples: int, right: float, tasks: int = 30):
    """A point whose requests were `samples` answers to each of `tasks`."""
    point = closed_point(8, tasks * samples, seed=samples)
    point.conditions = {**point.conditions, "samples_per_prompt": samples}
    rng = np.random.default_rng(samples)
    for i, record in enumerate(point.records):
        record.task, record.sample = f"task {i // samples}", i % samples
        record.correct = bool(rng.random() < right)
        record.answer = "right" if record.correct else f"wrong {rng.integers(3)}"
    return point


def watched(point, name: str, kind: str, values) -> Series:
    at = np.linspace(point.start_ns, point.end_ns, len(values)).astype(int)
    return Series(
        name=name,
        unit="",
        kind=kind,
        source=HOSTILE,
        at_ns=at.tolist(),
        values=[float(v) for v in values],
    )


def test_points_are_shown_by_rising_load_whatever_order_they_were_measured_in():
    run = make_run(closed_point(16, 80), closed_point(1, 20), closed_point(4, 40))
    view = View(run)
    assert [p["load"]["concurrency"] for p in view.summaries] == [1, 4, 16]
    for one in view.points:
        (course,) = one.courses
        assert course.point.load.concurrency == one.summary["load"]["concurrency"]


def test_latencies_are_drawn_from_the_requests_that_the_summary_counts():
    for one in View(make_run(closed_point(1, 60), closed_point(16, 300))).points:
        for metric in ("ttft", "ttft_from_schedule", "tpot", "itl", "e2e"):
            values = one.values(metric)
            assert len(values) == one.summary[metric]["n"]
            assert np.quantile(values, 0.9) == pytest.approx(one.summary[metric]["p90"], rel=1e-6)


def test_gaps_are_those_of_the_metric():
    assert gaps([]).size == 0
    record = closed_point(1, 1).records[0]
    assert gaps([record]) * 1e9 == pytest.approx(np.diff(record.event_ns), abs=1)


def test_of_many_points_both_ends_and_the_best_are_featured():
    points = make_run(*(closed_point(c, 30) for c in range(1, 12))).summary["points"]
    points[7] = {**points[7], "output_throughput": {"value": 1e9}}
    chosen = featured(points)
    assert len(chosen) == 6
    assert {0, 7, 10} <= set(chosen)
    view = View(make_run(*(closed_point(c, 12) for c in range(1, 9))))
    assert len(view.points) == 8
    assert len(view.shown) == 6


def test_repeats_are_one_point_with_each_of_them_as_a_dot():
    again = []
    for repeat in range(3):
        point = closed_point(4, 120, seed=100 * repeat)
        point.repeat = repeat
        again.append(point)
    run = make_run(closed_point(1, 40), *again)
    drawn = rows(figures.curve(View(run), 500, 300))
    for repeat in run.summary["points"][1]["repeats"]:
        assert repeat["output_throughput"]["value"] in [row.get("x") for row in drawn]
    page = Page(html.render(run))
    assert "Small dots are single repeats." in page.text
    assert "4 at once, first of 3 repeats" in page.text


def test_a_limit_is_drawn_with_the_points_that_break_it():
    run = make_run(closed_point(1, 60), closed_point(32, 400), slos=parse_slos("ttft.p90<50ms"))
    drawn = rows(figures.kept(View(run), run.slos[0], 500, 300))
    assert [(row["x"], row["ok"]) for row in drawn if "ok" in row] == [(1, True), (32, False)]
    assert "limit 50 ms" in [row.get("name") for row in drawn]
    assert "ttft.p90<0.05s as the load rises" in Page(html.render(run)).text


def test_capacity_is_drawn_with_its_trials_and_its_interval():
    trials = []
    for i, rate in enumerate((2.0, 3.0, 4.0, 5.0, 6.0, 7.0) * 2):
        point = open_point(rate, 120, seed=i)
        point.role = Role.TRIAL
        for k, record in enumerate(point.records):
            if k % 100 < 4 * (rate - 3.5):  # of a hundred so many wait a second more
                record.sched_ns -= 1_000_000_000
        trials.append(point)
    run = make_run(closed_point(1, 60), *trials, slos=parse_slos("ttft.p95<0.5s"))
    found = table.capacity(run.summary)
    assert found["load"] is not None
    low, high = found["ci95"]
    drawn = rows(figures.capacity(found, 500, 300))
    band = next(row for row in drawn if "low" in row)
    assert (band["x"], band["low"], band["high"]) == (found["load"], low, high)
    shown = [row for row in drawn if "bracket" in row]
    assert {row["x"] for row in shown} == {point.load.rate for point in trials}
    assert {row["ok"] for row in shown} == {True, False}
    said = " ".join(table.findings(run.summary))
    assert f"it carries {table.number(found['load'])} requests/s (95 % interval" in said


def test_cost_and_the_end_of_the_climb_are_said():
    run = make_run(
        closed_point(1, 60),
        closed_point(16, 900),
        price=parse_price("3.6/h"),
        swept=Swept(stopped="no more to gain"),
    )
    text = Page(html.render(run)).text
    assert "The climb ended: no more to gain." in text
    best = max(p["output_throughput"]["value"] for p in run.summary["points"])
    cost = table.figure(1000 / best)  # 3.6 an hour is a thousandth a second
    assert f"a million output tokens cost {cost}" in text
    assert "What tokens cost" in text
    drawn = rows(figures.cost(View(run), 500, 300))
    assert [row["y"] for row in drawn if row.get("name")] == [
        p["cost"]["output_tokens"] for p in run.summary["points"]
    ]
    assert figures.cost(View(make_run(closed_point(1, 60), closed_point(4, 60))), 500, 300) is None


def test_quality_is_drawn_against_samples():
    run = make_run(tasked(1, 0.6), tasked(4, 0.6), tasked(16, 0.6))
    view = View(run)
    drawn = [row for row in rows(figures.accuracy(view, 500, 300)) if "name" in row]
    for point in run.summary["points"]:
        quality = point["quality"]
        for way, name in (("accuracy", "majority right"), ("any_right", "one of them right")):
            (row,) = [r for r in drawn if (r["x"], r["name"]) == (quality["samples"], name)]
            assert row["y"] == pytest.approx(100 * quality[way]["value"])
    assert figures.right_per_second(view, 500, 300) is not None
    page = Page(html.render(run))
    assert "8 at once, n = 16" in page.text
    assert "Right answers per second" in page.text
    # All at one load: samples are compared, so there is no curve of loads.
    assert "One user's speed against throughput" not in page.text
    assert figures.accuracy(View(make_run(tasked(4, 0.6))), 500, 300) is None


def test_names_of_lines_that_end_together_stand_apart():
    run = make_run(*(tasked(samples, 1.0) for samples in (1, 4)))  # all three ways: 100 %
    drawn = rows(figures.accuracy(View(run), 500, 300))
    assert sorted(r["y"] for r in drawn if "label" in r) == pytest.approx([88, 94, 100])


def test_values_that_are_nearly_equal_are_shown_so():
    scale = look.axis([{"x": 99.0}, {"x": 101.0}], "x")["scale"].to_dict()
    assert scale["domain"] == pytest.approx([90, 110])
    assert "domain" not in look.axis([{"x": 50.0}, {"x": 101.0}], "x")["scale"].to_dict()


def test_names_of_marks_that_lie_together_are_left_out_whatever_their_noise():
    run = make_run(*(closed_point(users, 40) for users in (1, 2, 3, 4)))
    for i, point in enumerate(run.summary["points"]):
        point["output_throughput"]["value"] = (400.0, 900.0, 903.0, 905.0)[i]
        point["user_speed"]["p50"] = (125.0, 125.1, 124.9, 125.0)[i]  # as noise has it
        point["limit"]["output_throughput"] = None
    drawn = rows(figures.curve(View(run), 500, 300))
    assert sorted(row["name"] for row in drawn if row.get("name")) == ["1", "4"]


def test_meanings_are_given_of_what_the_run_holds_and_of_nothing_else():
    def meanings(run):
        text = Page(html.render(run)).text
        return text[text.index("What the figures mean") :]

    rare = ("Goodput", "Capacity", "Right, by majority", "Sessions", "Cost", "Power, energy")
    plain = meanings(make_run(closed_point(4, 160)))
    assert not [name for name in rare if name in plain]
    point = tasked(4, 0.6)
    for i, record in enumerate(point.records):
        record.session = str(i)
    run = make_run(
        point,
        slos=parse_slos("ttft<1s"),
        price=parse_price("2.5/h"),
        series=[watched(point, "energy", "counter", [0, 100])],
        unsettled="the search was ended early",
    )
    full = meanings(run)
    assert [name for name in rare if name in full] == list(rare)
    assert "(2.5 per hour) ÷ what came in a second" in full
    listed = meanings(make_run(closed_point(4, 160), price=parse_price("in=1,out=2")))
    assert "at the price list (1 in, 1 cached, 2 out, per million tokens)" in listed
    assert "right answers" not in listed


def test_the_window_is_told_as_it_was_found():
    """The start is slow here, so MSER trims it."""
    point = closed_point(8, 900)
    at = point.start_ns + 3 * 10**9
    for record in point.records:
        if record.sched_ns < at:
            record.sched_ns -= 10**9
    run = make_run(point)
    window = run.summary["points"][0]["window"]
    assert window["trimmed_s"] > 1
    text = Page(html.render(run)).text
    assert (
        f"8 at once: from {window['start_s']:.3g} to {window['end_s']:.3g} s of the load, "
        f"{window['trimmed_s']:.2g} s trimmed" in text
    )


def test_one_request_is_no_distribution_and_a_dead_server_has_a_foot():
    one = View(make_run(closed_point(1, 1))).points
    assert figures.distribution(one, "e2e", 500, 300) is None
    assert figures.prompts(one, 500, 300) is None
    (dead,) = View(make_run(dead_point())).points
    drawn = json.loads(figures.timeline(dead.courses[0], dead.colour, [], 500, 300).to_json())
    scale = drawn["vconcat"][0]["layer"][1]["encoding"]["y"]["scale"]
    assert scale["domain"] == [0, 1.0]


def test_the_server_is_drawn_under_the_load_it_had():
    point = closed_point(8, 200)
    series = [
        watched(point, "running", "gauge", [8] * 30),
        watched(point, "waiting", "gauge", range(30)),
        watched(point, "kv_usage", "gauge", np.linspace(0, 0.5, 30)),
        watched(point, "preemptions", "counter", [0] * 30),
        watched(point, "prefix_queries", "counter", np.arange(30) * 100),
        watched(point, "prefix_hits", "counter", np.arange(30) * 25),
        watched(point, "energy", "counter", np.arange(30) * 10.0),
        watched(point, "energy", "counter", np.arange(30) * 5.0),
    ]
    seconds = (point.end_ns - point.start_ns) / 1e9
    panels = {p.title: p for p in server.panels(series, point.start_ns, seconds)}
    assert "preemptions/s" not in panels  # there was none
    queue = panels["at the server: requests running and waiting"].lines
    assert [row["v"] for row in queue["waiting"]] == list(range(30))
    assert max(row["v"] for row in panels["% of the KV cache in use"].lines[""]) == 50
    hits = panels["% of prompt tokens found in the prefix cache"].lines[""]
    assert {round(row["v"], 6) for row in hits} == {25.0}
    watts = [row["v"] for row in panels["watts"].lines[""]]
    assert watts == pytest.approx([15 * 29 / seconds] * len(watts), rel=1e-3)
    page = Page(html.render(make_run(point, series=series)))
    for title in panels:
        assert title in page.text
    assert not {"script", "img"} & set(page.tags)


def test_guesses_are_drawn_over_time_and_by_position():
    point = closed_point(8, 200)
    seconds = np.arange(30)
    rates = {"output_tokens": 90, "sequence_steps": 50, "drafts": 40, "drafted": 100}
    series = [watched(point, name, "counter", rate * seconds) for name, rate in rates.items()]
    series += [watched(point, "accepted", "counter", 40 * seconds)]
    for position, (made, right) in enumerate([(40, 30), (40, 10), (20, 0)]):
        for name, rate in (("drafted_at", made), ("accepted_at", right)):
            series.append(watched(point, name, "counter", rate * seconds))
            series[-1].position = position
    run = make_run(point, series=series)
    (one,) = View(run).points
    (course,) = one.courses
    panels = {p.title: p for p in server.panels(series, point.start_ns, course.seconds)}
    line = panels["tokens a step and sequence"].lines[""]
    assert [row["v"] for row in line] == pytest.approx([1.8] * server.SLICES)
    drawn = rows(figures.timeline(course, one.colour, series, 500, 300))
    bars = [tuple(row[k] for k in ("guess", "says")) for row in drawn if "guess" in row]
    assert bars == [(1, "75 %"), (2, "25 %"), (3, "0 %")]
    assert [r["drafted"] for r in drawn if "guess" in r] == pytest.approx([100, 100, 50])
    text = Page(html.render(run)).text
    for said in ("Tokens a step", "Guesses right", "% of drafts in the window", "A draft is what"):
        assert said in text
    # What nobody told, or nobody did, has neither row nor panel.
    assert "Time guessing" not in text[: text.index("What the figures mean")]
    plain = make_run(point, series=[s for s in series if s.name in ("output_tokens", "drafts")])
    assert "Guesses ahead" not in [s.title for s in table.sections(plain.summary["points"])]
    (one,) = View(plain).points
    drawn = figures.timeline(one.courses[0], one.colour, plain.series, 500, 300).to_json()
    assert "of drafts" not in drawn
    assert "tokens a step" not in drawn


def test_nothing_of_another_point_is_drawn_and_silence_has_no_panel():
    point = closed_point(8, 60)
    later = msgspec.structs.replace(point, start_ns=point.end_ns + 1, end_ns=point.end_ns + 10**9)
    series = [watched(later, "running", "gauge", [1, 2, 3])]
    seconds = (point.end_ns - point.start_ns) / 1e9
    assert list(server.panels(series, point.start_ns, seconds)) == []
    assert list(server.panels([], point.start_ns, seconds)) == []


def test_many_readings_keep_their_peak():
    point = closed_point(8, 60)
    values = np.ones(5000)
    values[2500] = 99
    series = [watched(point, "waiting", "gauge", values)]
    (panel,) = server.panels(series, point.start_ns, (point.end_ns - point.start_ns) / 1e9)
    lines = panel.lines["waiting"]
    assert len(lines) <= server.SLICES + 1
    assert max(row["v"] for row in lines) == 99


def test_hostile_names_of_models_tasks_and_limits_stay_text():
    point = tasked(1, 0.5)
    point.conditions = {**point.conditions, "model": HOSTILE, HOSTILE: HOSTILE}
    for record in point.records:
        record.task, record.answer, record.wrong_why = HOSTILE, HOSTILE, HOSTILE
    run = make_run(point, swept=Swept(stopped=HOSTILE), target={"url": HOSTILE})
    page = Page(html.render(run))
    assert not {"script", "img"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert HOSTILE in page.text


def test_many_requests_make_a_small_page():
    point = closed_point(64, 15_000, tokens=3)
    source = html.render(make_run(point))
    assert len(source) < 1_000_000
    assert "600 at most of" in Page(source).text
