"""The picture for a README: all of a run that fits one, and its verdict."""

import struct

import pytest

from penstock.record.run import Role
from penstock.report import png
from penstock.report.table import heading
from penstock.report.view import View
from tests.report.runs import closed_point, dead_point, make_run, open_point


def size(run, path):
    png.write(run, path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", data[16:24])


def test_curve_distributions_and_course_are_one_picture(tmp_path):
    wide, high = size(make_run(closed_point(1, 20), closed_point(4, 40)), tmp_path / "a.png")
    assert wide == pytest.approx(2100, abs=100)
    # A point alone of no known limit has no curve: one row of figures less.
    _, less = size(make_run(open_point(4.0, 40)), tmp_path / "b.png")
    assert high - less > 2 * 250


def test_the_course_is_of_the_point_that_the_sentence_speaks_of(tmp_path):
    over = closed_point(16, 900)
    over.role = Role.OVERLOAD
    run = make_run(closed_point(1, 60), closed_point(4, 600), over)
    best = heading(png.best(View(run)).summary)
    assert best == "4 at once"
    assert run.summary["sentences"][1].startswith("With 4 at once")


def test_a_run_without_figures_has_no_picture(tmp_path):
    with pytest.raises(ValueError, match="no picture"):
        png.write(make_run(dead_point()), tmp_path / "curve.png")
