"""`penstock reason` as a user meets it."""

import importlib.util
import json
import signal

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from tests.report.page import Page


def penstock(*arguments, exit_code=0):
    result = CliRunner().invoke(app, ["reason", *(str(each) for each in arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == exit_code, result.output
    return result


def test_without_the_engine_it_names_the_extra(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torch" else found(name, *a)
    )
    assert "torch not installed. Run: pip install" in penstock(exit_code=1).output


pytest.importorskip("torch", reason="the embedded model needs PyTorch")


def test_page_picture_and_words(tmp_path):
    page, picture = tmp_path / "r.html", tmp_path / "r.png"
    said = penstock(
        *("--questions", 10, "--samples", "1,4,8", "--speed", "50,500", "--price", "3.6/h"),
        *("--html", page, "--png", picture),
    ).stdout
    said = " ".join(said.split())
    assert "of 10 questions" in said
    assert "Questions answered right" in said
    assert "Cost of 1,000 questions, at 3.6 per hour" in said
    assert "500 tokens/s" in said
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert [row[0] for row in Page(text).rows if row[0] != "samples"] == ["1", "4", "8"] * 3
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("<svg") == 6  # three figures, for two sizes of screen


def test_json_holds_everything_and_the_seed_settles_the_answers():
    arguments = ("--questions", 6, "--samples", "1,4", "--seed", 3, "--json")
    found, again = (json.loads(penstock(*arguments).stdout) for _ in range(2))
    assert found["quality"] == again["quality"]
    assert found["greedy"] == again["greedy"]
    assert [q["samples"] for q in found["quality"]] == [1, 4]
    assert (found["questions"], found["asked"], found["drawn"]) == (6, 6, 4)
    (here,) = found["engines"]
    assert here["measured"]
    assert all(spent["seconds"] > 0 for spent in here["spent"])
    assert found["model"]["name"] == "embedded"


def test_random_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"penstock_synthetic": True}))
    assert "holds random weights" in penstock(tmp_path, exit_code=1).output


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (("--samples", "1,many"), "no list of counts", 2),
        (("--speed", "fast"), "no number above zero", 2),
        (("--first-token", "1"), "belongs to --speed", 2),
        (("--price", "cheap"), "cannot read", 2),
        (("--temperature", "0"), "at 0 all samples are the same", 1),
        (("no-such-model",), "neither a directory nor one of", 1),
        (("--samples", "1,2000"), "1024 is the most", 1),
        (("--questions", "100000000"), "questions=100,000,000; 5,000 is the most", 1),
    ],
)
def test_bad_input_is_told_field_and_way_out(arguments, says, code):
    said = penstock(*arguments, exit_code=code).output.replace("│", " ")
    assert says in " ".join(said.split())


def test_ctrl_c_leaves_what_is_answered(monkeypatch):
    """The signal comes while the third question is being answered."""
    from penstock.plan.reason import ask

    timed, asked = ask._timed, []

    def interrupted(*arguments):
        asked.append(1)
        if len(asked) == 3:
            signal.raise_signal(signal.SIGINT)
        return timed(*arguments)

    monkeypatch.setattr(ask, "_timed", interrupted)
    before = signal.getsignal(signal.SIGINT)
    done = penstock("--questions", 50, "--samples", "1,2", "--json", exit_code=130)
    assert "Ending after this question" in done.stderr
    found = json.loads(done.stdout)
    assert (found["questions"], found["asked"]) == (3, 50)
    assert len(asked) == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_before_the_first_question_ends_at_once(monkeypatch):
    """The signal comes while the questions are made."""
    from penstock.plan.reason import ask

    monkeypatch.setattr(ask, "open_tasks", lambda *a, **b: signal.raise_signal(signal.SIGINT))
    assert "nothing was kept" in penstock(exit_code=130).stderr
