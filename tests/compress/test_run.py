"""`penstock compress` from a name to a directory and its report."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.compress import run
from penstock.compress.desk import Desk
from penstock.engine.llm import LLM

QUICK = ["--rows", "2", "--length", "32", "--held-out", "2", "--tasks", "0"]


def invoke(*arguments):
    return CliRunner().invoke(app, ["compress", *arguments], env={"COLUMNS": "110"})


def test_a_pruned_and_quantized_model_and_its_report(family, tmp_path):
    out = tmp_path / "small"
    done = invoke(
        str(family("llama")), "--out", str(out), "--layers", "1", "--order", "influence",
        "--weights", "int4", "--group", "64", *QUICK, "--json",
        "--html", str(tmp_path / "x.html"), "--png", str(tmp_path / "x.png"),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert made["before"]["layers"] == 4
    assert made["after"]["layers"] == 3
    assert made["after"]["file_bytes"] < made["before"]["file_bytes"]
    assert made["before"]["quality"]["kl"] == 0
    assert made["after"]["quality"]["kl"] > 0
    assert made["before"]["quality"]["doctests_right"] is None
    assert [speed["sequences"] for speed in made["after"]["speed"]] == [1, 16]
    assert [step["how"]["type"] for step in made["steps"]] == ["depth", "quantize"]
    assert made["conditions"]["calibration"] == "2 rows of 32 tokens, train split"
    assert LLM(str(out)).generate([[1, 2, 3]])[0].token_ids
    assert json.loads((out / "compress.json").read_text())["steps"] == made["steps"]
    page = (tmp_path / "x.html").read_text()
    assert "int4 in groups of 64 by GPTQ" in page
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "small.partial").exists()


def test_prompts_that_stop_early_are_reported(family, tmp_path):
    out = tmp_path / "swift"
    asked = [str(family("qwen3")), "--out", str(out), "--swiftkv", "0.5", *QUICK]
    done = invoke(*asked, "--json", "--png", str(tmp_path / "x.png"))
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert made["steps"][0]["how"] == {"type": "swiftkv", "full": 0.5, "group": 1}
    assert made["after"]["reading"][0]["median"] > 0
    assert "Prompts stop behind 2 of 4 layers" in made["notes"][0]
    assert json.loads((out / "config.json").read_text())["num_key_value_layers"] == 2
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_says_what_it_cost(family, tmp_path):
    done = invoke(
        str(family("llama")), "--out", str(tmp_path / "x"), "--weights", "int8",
        "--method", "rtn", *QUICK, "--no-speed",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for line in ("int8 by RTN", "held-out loss, nats", "KL to the original", "on disk, MB"):
        assert line in done.stdout


def test_interrupted_it_keeps_what_is_finished(family, tmp_path, monkeypatch):
    out = tmp_path / "x"
    asked = [
        str(family("llama")), "--out", str(out), "--layers", "1", "--weights", "int8",
        *QUICK, "--no-speed",
    ]  # fmt: skip
    times = []
    real = run._apply

    def first(checkpoint, how, desk: Desk):
        times.append(how.title)
        if len(times) == 2:
            raise KeyboardInterrupt
        return real(checkpoint, how, desk)

    monkeypatch.setattr(run, "_apply", first)
    stopped = invoke(*asked)
    assert stopped.exit_code == 130
    assert "x.partial keeps what is finished" in stopped.stderr
    assert not out.exists()
    assert invoke(*asked).exit_code == 0
    assert len(times) == 3  # the first technique was not applied again
    assert out.exists()


def test_what_cannot_be_done_is_said(family, tmp_path):
    nothing = invoke(str(family("llama")), "--out", str(tmp_path / "x"))
    assert nothing.exit_code == 2
    assert "ask for at least one of" in nothing.output
    taken = invoke(str(family("llama")), "--out", str(tmp_path), "--weights", "int4")
    assert taken.exit_code == 1
    assert "exists; remove it" in taken.stderr


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--swiftkv", "inf"), "'--swiftkv': inf is no finite number"),
        (("--distill", "inf"), "'--distill': inf is no finite number"),
        (("--distill", "1", "--rate", "inf"), "'--rate': inf is no finite number"),
        (("--weights", "int8", "--pattern", "2:4"), "--pattern: this belongs to --zeros"),
        (("--layers", "1", "--uneven"), "--uneven: this belongs to --neurons and --heads"),
        (("--layers", "1", "--seed", "3"), "--seed: this belongs to --order random"),
        (("--layers", "1", "--act-order"), "--act-order: this belongs to --weights"),
        (("--weights", "int8", "--group", "64"), "--group: this belongs to --weights int4"),
        (
            ("--weights", "int8", "--method", "awq", "--act-order"),
            "--act-order: this belongs to --method gptq",
        ),
        (("--layers", "1", "--teacher", "nosuch"), "--teacher: this belongs to --distill"),
        (
            ("--distill", "1", "--teacher", "none", "--truth", "0.5"),
            "--truth: this belongs to a --distill with a teacher",
        ),
        (("--layers", "1", "--swiftkv-group", "2"), "--swiftkv-group: this belongs to --swiftkv"),
    ],
)
def test_options_that_are_wrong_or_would_be_ignored_are_refused(family, tmp_path, asked, says):
    refused = invoke(str(family("llama")), "--out", str(tmp_path / "x"), *asked)
    assert refused.exit_code == 2
    assert says in refused.output


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--weights", "int4", "--length", "300"), "length=300 is more than the 256 positions"),
        (("--zeros", "0.25", "--pattern", "2:4"), r"zeros=0.25 must be 0.5 with pattern=2:4"),
        (("--weights", "int4", "--group", "128"), "group=128 does not divide the 192 inputs"),
    ],
)
def test_a_refused_command_leaves_nothing_in_the_way_of_the_right_one(
    family, tmp_path, asked, says
):
    quick = QUICK if "--length" not in asked else ["--rows", "2"]
    refused = invoke(str(family("llama")), "--out", str(tmp_path / "x"), *asked, *quick)
    assert refused.exit_code == 1
    assert says in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_readable_tokenizer_is_refused(family, tmp_path):
    model = shutil.copytree(family("llama"), tmp_path / "model")
    asked = [str(model), "--out", str(tmp_path / "x"), "--weights", "int4", *QUICK]
    (model / "tokenizer.json").write_text("{")
    assert "tokenizer.json cannot be read: " in invoke(*asked).stderr
    (model / "tokenizer.json").unlink()
    refused = invoke(*asked)
    assert refused.exit_code == 1
    assert "holds no tokenizer.json. Convert" in refused.stderr


def test_what_was_trained_for_other_minutes_is_not_built_on(llama, desk, monkeypatch):
    from penstock.compress import corpus
    from penstock.compress.distill import Distill

    monkeypatch.setattr(corpus, "training_texts", lambda: {"library": ["x = 1\n" * 99]})
    done = Distill(minutes=0, teacher=None)
    made = run._once(llama, done, desk, "step-0")
    assert run._once(llama, done, desk, "step-0").checkpoint.config == made.checkpoint.config
    with pytest.raises(ValueError, match="for 0 minutes .* already, not fine-tuned for 9 minutes"):
        run._once(llama, Distill(minutes=9, teacher=None), desk, "step-0")


@pytest.mark.parametrize("rows", [1, 3])
def test_calibration_is_of_the_train_split(rows):
    from tokenizers import Tokenizer

    from penstock import models
    from penstock.compress.checkpoint import Checkpoint
    from penstock.compress.corpus import calibration, held_out
    from penstock.workload import stdlib

    whole = Checkpoint.read(models.path("embedded"))
    coder = Tokenizer.from_file(str(whole.source / "tokenizer.json"))
    found = calibration(whole, rows, 64)
    assert found.shape == (rows, 65)
    text = coder.decode(found[0].tolist())
    assert any(text[4:60] in source for _, source in stdlib.texts("train"))
    measured = held_out(lambda text: coder.encode(text).ids, 64, 4)
    assert measured.shape == (4, 65)
    text = coder.decode(measured[1].tolist())
    assert not any(text[4:60] in source for _, source in stdlib.texts("train"))
