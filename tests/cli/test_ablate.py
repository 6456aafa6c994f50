"""`penstock ablate` as a user meets it."""

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch", reason="the ladder is of the engine")
from penstock.cli import app
from tests.ablate.fakes import fake  # noqa: F401
from tests.report.page import Page

SMALL = "--requests 8 --samples 2 --shared 32 --own 16 --output 8 --seats 4 --rounds 2".split()  # noqa: SIM905


def penstock(*arguments, exit_code=0):
    result = CliRunner().invoke(app, ["ablate", *(str(each) for each in arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == exit_code, result.output
    return result


def test_words_page_and_picture(fake, tmp_path):  # noqa: F811
    picture = tmp_path / "a.png"
    said = penstock("embedded", *SMALL, "--out", tmp_path / "run", "--png", picture).stdout
    said = " ".join(said.split())
    assert "All that pays, together" in said
    assert "left out" in said
    assert "…" not in said.partition("claimed")[0]  # the ladder fits 80 columns
    assert "gpt-fast" in said
    text = (tmp_path / "run" / "report.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert "http" not in text.replace("http-equiv", "")
    assert any(row[0] == "KV cache" for row in page.rows)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_json_and_nothing_else(fake, tmp_path):  # noqa: F811
    found = json.loads(penstock("embedded", "--quick", *SMALL, "--out", tmp_path, "--json").stdout)
    assert [rung["name"] for rung in found["rungs"]][:3] == ["no-cache", "kv-cache", "bf16"]
    assert found["top"]["steps"] == pytest.approx(found["top"]["exact"] * found["top"]["lossy"])


def test_a_server_is_asked_any_number_of_requests(tmp_path):
    result = penstock(
        *("--launch", "no-such-program {port} {flag}", "--flag", "--x", "--requests", "10"),
        *("--out", tmp_path),
        exit_code=1,
    )
    assert "no-such-program" in result.output


def test_what_a_server_says_cannot_drive_the_terminal(tmp_path):
    says = r"printf '\033]0;owned\007\033[2J'; exit 3"
    command = f'sh -c "{says}" {{port}} {{flag}}'
    result = penstock("--launch", command, "--flag", "--x", "--out", tmp_path, exit_code=1)
    assert "\\x1b]0;owned" in result.output
    assert not {"\x1b", "\x07"} & set(result.output)


def test_ctrl_c_keeps_what_is_measured(fake, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(fake, "stop_after", 5)
    result = penstock("embedded", *SMALL, "--out", tmp_path, exit_code=130)
    assert "goes on from there" in result.output
    assert len((tmp_path / "ablate.jsonl").read_text().splitlines()) > 5


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (("embedded", "--price", "in=1,out=2"), "paid by the hour", 2),
        (("embedded", "--price", "cheap"), "cannot read", 2),
        (("embedded", "--flag", "--x"), "belongs to --launch", 2),
        (("embedded", "--launch", "serve {port} {flag}"), "says what is served", 2),
        (("--launch", "serve {port}", "--flag", "--x"), "{flag}", 1),
        (("--launch", "s", "--samples", "2", "--draft", "d"), "--samples and --draft", 2),
        (("--launch", "s", "--minutes", "2", "--leave-out", "d"), "not with --launch", 2),
        (("--launch", "s {port} {flag}", "--price", "in=1,out=2"), "paid by the hour", 2),
        (("embedded", "--requests", "7"), "multiple of samples", 1),
        (("no-such-model",), "neither a directory nor one of", 1),
    ],
)
def test_what_cannot_be_is_said(arguments, says, code, tmp_path):
    result = penstock(*arguments, "--out", tmp_path / "x", exit_code=code)
    assert says in " ".join(result.output.split())
