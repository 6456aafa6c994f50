"""`penstock audit` as a user meets it."""

import json

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.record.run import save
from tests.record.simulated import closed_point, run_of
from tests.report.page import Page

WAFER = "2,100 tokens/s for Llama 70B in fp16 on one wafer-scale engine"


def penstock(*arguments):
    result = CliRunner().invoke(app, ["audit", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_verdict_comes_first_and_the_questions_last():
    text = " ".join(penstock(WAFER).output.split())
    assert text.startswith("IMPOSSIBLE: 2,100 tokens/s")
    assert "141.1 GB of weights" in text
    assert "holds 44.0 GB" in text
    assert "Measured nearest to it" in text
    assert text.index("To ask whoever claims it") > text.index("Measured nearest")


def test_json_is_all_that_is_printed():
    made = json.loads(penstock(WAFER, "--json").stdout)
    assert made["verdict"] == "impossible"
    assert made["missing"][0] == "whose"
    assert made["required"]["weight_bytes"] > made["required"]["available"]["memory_bytes"]
    assert {"model", "device", "tokens_per_s", "share_of_ceiling"} <= set(made["nearest"][0])


def test_files_and_runs(tmp_path):
    file = tmp_path / "claim.toml"
    file.write_text('figure = 100\nwhose = "user"\nmodel = "llama-3.1-8b"\nhardware = "h100"\n')
    assert "PLAUSIBLE: 100 tokens/s to each user" in penstock(file).output
    save(run_of(closed_point(1, seconds=20)), tmp_path / "run")
    assert "tokens/s in all" in penstock(tmp_path / "run").output


def test_a_run_brings_its_own_ceiling(tmp_path):
    run = run_of(closed_point(1, seconds=20))
    run.points[0].limit = {"output_throughput": 1e4, "user_speed": 1e4, "binds": "compute",
                           "fraction": None, "basis": "measured on 2 CPU cores"}  # fmt: skip
    save(run, tmp_path / "run")
    output = " ".join(penstock(tmp_path / "run").output.split())
    assert output.startswith("PLAUSIBLE")
    assert "that its hardware allows by its own record: measured on 2 CPU cores" in output


def test_hardware_of_ones_own(tmp_path):
    sheet = tmp_path / "mine.toml"
    sheet.write_text("[my-npu]\nmemory_bytes = 32e9\nread_bytes_per_s = 2e11\n")
    for text, verdict in (
        ("30 tokens/s per user on one my-npu", "UNDERSPECIFIED"),
        ("30 tokens/s per user for Llama 3.1 8B in int4 on one my-npu", "PLAUSIBLE"),
        ("900 tokens/s per user for Llama 3.1 8B in int4 on one my-npu", "IMPOSSIBLE"),
    ):
        assert verdict in penstock(text, "--sheets", sheet).output


@pytest.mark.parametrize(
    ("claim", "says"),
    [
        ("very fast", "no figure found in 'very fast'"),
        ("absent.toml", "cannot be read"),
        ("", "no figure found"),
    ],
)
def test_what_cannot_be_read_says_what_to_write(claim, says):
    result = penstock(claim)
    assert result.exit_code == 1
    assert says in result.output


def test_pictures_and_pages_show_foreign_words_literally(tmp_path):
    hostile = "<script>alert(1)</script> [red]50 tok/s[/red] \x1b[31m on 8xH100"
    page, picture = tmp_path / "a.html", tmp_path / "a.png"
    result = penstock(hostile, "--html", page, "--png", picture)
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    found = Page(page.read_text())
    assert "script" not in found.tags
    assert "<script>alert(1)</script>" in found.text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_ratio_has_its_picture_too(tmp_path):
    picture = tmp_path / "ratio.png"
    assert penstock("36x higher throughput from 4-bit weights", "--png", picture).exit_code == 0
    assert picture.stat().st_size > 10_000
    result = penstock("36x higher throughput", "--png", picture)
    assert result.exit_code == 1
    assert "no picture" in result.output
