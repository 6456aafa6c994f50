"""The page of a comparison: metrics of both runs, and no curve where there is none."""

import io

import pytest
from rich.console import Console

from penstock.record.compare import compare
from penstock.record.gate import parse_gates, rule
from penstock.report.compare import show, write_html
from tests.report.page import Page
from tests.report.runs import closed_point, make_run
from tests.report.test_figures import tasked


def page(a, b, path, gates=""):
    made = compare(a, b)
    write_html(made, rule(parse_gates(gates), made) if gates else [], (a, b), path)
    return Page(path.read_text())


def test_right_answers_are_rows_of_their_own_for_each_number_of_samples(tmp_path):
    a = make_run(tasked(1, 0.9), tasked(4, 0.9))
    b = make_run(tasked(1, 0.3), tasked(4, 0.3))
    shown = page(a, b, tmp_path / "c.html", "accuracy<-5%")
    found = [row for row in shown.rows if row[0] == "accuracy"]
    assert [row[1] for row in found] == [
        f"{100 * p['quality']['accuracy']['value']:.2f} %" for p in a.summary["points"]
    ]
    assert [row[-1] for row in found] == ["B is worse", "B is worse"]
    assert "With 8 at once, n = 4" in shown.text
    assert "accuracy: over tasks" in shown.text
    assert shown.text.count("fails: -") == 2
    assert "speed against throughput" not in shown.text  # one load: no curve


def test_runs_at_several_loads_have_a_curve(tmp_path):
    run = make_run(closed_point(1, 40), closed_point(4, 80))
    assert "speed against throughput" in page(run, run, tmp_path / "c.html").text


@pytest.mark.parametrize("width", [80, 120])
def test_the_finding_fits_the_terminal(width):
    run, out = make_run(tasked(4, 0.5)), io.StringIO()
    show(compare(run, run), [], Console(file=out, width=width))
    assert "differs" in out.getvalue()
    assert "\u2026" not in out.getvalue()
