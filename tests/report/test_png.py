"""The picture for a README."""

import struct

import pytest

from penstock.report import png
from tests.report.runs import closed_point, dead_point, make_run


def test_it_is_a_png_of_the_promised_width(tmp_path):
    path = tmp_path / "curve.png"
    png.write(make_run(closed_point(1, 20), closed_point(4, 40)), path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (1440, 800)


def test_a_run_without_figures_has_no_picture(tmp_path):
    with pytest.raises(ValueError, match="no picture"):
        png.write(make_run(dead_point()), tmp_path / "curve.png")
