"""`penstock limits` and `penstock hardware` as a user meets them."""

import json
import tomllib

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from tests.report.page import Page


def penstock(*arguments, exit_code=0):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == exit_code, result.output
    return " ".join(result.output.split())


def test_limits_say_what_binds_and_how_many_fit():
    said = penstock("limits", "llama-3.1-8b", "--on", "h100", "--prompt", 1000, "--output", 200)
    assert "a user gets at most 221 tokens/s" in said
    assert "what binds is reading the weights" in said
    assert "at most 410 sequences" in said
    assert "Decoding alone" in said


def test_json_holds_the_limits_and_nothing_else():
    said = penstock(
        *("limits", "llama-3.1-70b", "--on", "h200", "--weights", "fp8", "--kv", "fp8"),
        *("--tp", 4, "--batch", "1,64", "--json"),
    )
    found = json.loads(said)
    assert [step["batch"] for step in found["decode"]] == [1, 64]
    assert found["weights"] == found["kv"] == "fp8"
    assert found["devices"] == 4
    assert found["what_if"] == []


def test_weights_are_taken_in_the_format_a_model_ships_in():
    found = json.loads(penstock("limits", "openai/gpt-oss-120b", "--on", "h100", "--json"))
    assert found["weights"] == "mxfp4"


def test_what_if_tells_sign_and_size():
    arguments = ("limits", "llama-3.1-8b", "--on", "h100", "--batch", 32)
    found = {
        one["change"]: one
        for one in json.loads(penstock(*arguments, "--what-if", "--json"))["what_if"]
    }
    assert found["2 x the memory bandwidth"]["effect"] == "raises"
    assert found["2 x the memory alone"]["effect"] == "leaves"
    assert found["0.8 x the time per token"]["effect"] == "lowers"
    said = penstock(*arguments, "--change", "weights=fp8", "--change", "bandwidth=1.5")
    assert "weights in fp8 +" in said
    assert "1.5 x the memory bandwidth +" in said
    assert "capacity" not in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("gpt-5", "--on", "h100"), "model 'gpt-5' is unknown"),
        (("llama-3.1-8b", "--on", "h10"), "did you mean 'h100'"),
        (("llama-3.1-8b", "--on", "h100", "--weights", "fp7"), "weights='fp7'"),
        (("llama-3.1-8b", "--on", "h100", "--tp", "0"), "tp=0 must be at least 1"),
        (("llama-3.1-8b", "--on", "h100", "--tp", "5"), "tp=5 does not divide"),
        (("llama-3.1-8b", "--on", "h100", "--prompt", "-1"), "prompt=-1 must be at least 1"),
        (("llama-3.1-8b", "--on", "h100", "--batch", "100000"), "the KV pool holds"),
        (("llama-3.1-405b", "--on", "h100"), "--tp"),
        (("llama-3.1-8b", "--on", "h100", "--change", "warp=9"), "'warp' is no change known"),
        (("llama-3.1-8b", "--on", "h100", "--png", "/nowhere/l.png"), "No such file"),
    ],
)
def test_bad_input_is_told_field_and_way_out(arguments, says):
    assert says in penstock("limits", *arguments, exit_code=1)


@pytest.mark.parametrize(
    ("option", "value"), [("--batch", "1,none"), ("--memory-share", "1.5"), ("--memory-share", "0")]
)
def test_an_option_that_cannot_be_is_refused_by_name(option, value):
    said = penstock("limits", "llama-3.1-8b", "--on", "h100", option, value, exit_code=2)
    assert option in said


def test_page_and_picture_are_written(tmp_path):
    page, picture = tmp_path / "l.html", tmp_path / "l.png"
    penstock(
        *("limits", "llama-3.1-8b", "--on", "h100", "--what-if"),
        *("--html", page, "--png", picture),
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert Page(text)
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("<svg") == 6  # three figures, for two sizes of screen


def test_hardware_lists_shows_and_is_told_as_json():
    assert "h100" in penstock("hardware")
    assert "sparsity" in penstock("hardware", "show", "h100")
    assert json.loads(penstock("hardware", "list", "--json"))[0]["name"] == "h100"
    assert json.loads(penstock("hardware", "show", "l4", "--json"))["power_w"] == 72


def test_all_hardware_is_drawn(tmp_path):
    penstock("hardware", "list", "--png", tmp_path / "h.png")
    assert (tmp_path / "h.png").read_bytes().startswith(b"\x89PNG")
    assert "No such file" in penstock("hardware", "list", "--png", "/nowhere/h.png", exit_code=1)


def test_a_shown_sheet_can_be_changed_and_used(tmp_path):
    shown = CliRunner().invoke(app, ["hardware", "show", "h100", "--toml"]).output
    assert tomllib.loads(shown)["h100"]["memory_bytes"] == 84.94e9
    path = tmp_path / "mine.toml"
    path.write_text(shown.replace("read_bytes_per_s = 3.35e+12", "read_bytes_per_s = 6.7e+12"))
    arguments = ("limits", "llama-3.1-8b", "--batch", 1, "--json", "--on")
    one, two = (json.loads(penstock(*arguments, on))["decode"][0] for on in ("h100", path))
    assert two["tokens_per_s"] == pytest.approx(2 * one["tokens_per_s"])


def test_a_wrong_sheet_is_told_its_field(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[mine]\nmemory_bytes = 80e9\nread_gb_s = 3350\n")
    said = penstock("limits", "llama-3.1-8b", "--on", path, exit_code=1)
    assert "mine.read_gb_s is no field of a sheet; did you mean read_bytes_per_s?" in said


def test_two_ways_of_showing_exclude_each_other():
    assert "--toml" in penstock("hardware", "show", "h100", "--json", "--toml", exit_code=2)


def test_the_machine_at_hand_is_measured_as_a_sheet_that_on_takes(tmp_path, monkeypatch):
    # The measurement itself is tested beside it; here only bytes, so that it takes a moment.
    monkeypatch.setattr("penstock.predict.measured._PRECISIONS", ("fp32",))
    path = tmp_path / "here.toml"
    found = json.loads(penstock("hardware", "measure", "--toml", path, "--json"))
    assert found["read_bytes_per_s"] > 1e9
    penstock("limits", "qwen3-0.6b", "--on", path, "--prompt", 32, "--output", 32)


def test_a_sheet_that_cannot_be_written_is_said(monkeypatch):
    monkeypatch.setattr("penstock.predict.measured._PRECISIONS", ("fp32",))
    said = penstock("hardware", "measure", "--toml", "/nowhere/here.toml", exit_code=1)
    assert "--toml /nowhere/here.toml cannot be written" in said
