"""`penstock explain` as a user meets it."""

import importlib.util
import io
import json
import re
import unicodedata

import pytest
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from penstock.cli import app
from tests.cli.test_bench import run

HOSTILE = "[red]x[/red] [/] \x1b[2J\x07 π"


def test_without_the_engine_it_names_the_extra(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torch" else found(name, *a)
    )
    done = CliRunner().invoke(app, ["explain", "x"])
    assert done.exit_code == 1
    assert "torch not installed. Run: pip install 'penstock[engine]'" in done.output


pytest.importorskip("torch", reason="a prompt runs through PyTorch")

from penstock.engine.explain import Settings, explain  # noqa: E402
from penstock.report.explain import show  # noqa: E402


@pytest.fixture(scope="module")
def told():
    return explain(HOSTILE, "embedded", Settings(tokens=24))


def shown(told, width, **settings):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, **settings)
    show(told, console)
    return console.file.getvalue()


def test_json_is_one_document_with_everything():
    done = run("explain", "def f(x):", "--tokens", "3", "--beams", "2", "--seed", "5", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["prompt"] == "def f(x):"
    assert told["model"]["name"] == "embedded"
    assert told["settings"] == {
        "tokens": 3, "temperature": 1.0, "top_k": 40, "top_p": 0.9, "beams": 2, "seed": 5,
    }  # fmt: skip
    assert "".join(token["text"] for token in told["tokens"]) == "def f(x):"
    assert [token.keys() for token in told["tokens"]] == (
        [{"id", "text", "bytes", "kind"}] * len(told["tokens"])
    )
    for candidate in [*told["candidates"], told["drawn"]]:
        assert candidate.keys() == {"token", "logit", "probability", "noise", "score"}
    assert len(told["candidates"]) == 5
    strategies = ["greedy", "top-k", "top-p", "sampling", "beam"]
    assert [choice["strategy"] for choice in told["choices"]] == strategies
    for choice in told["choices"]:
        assert len(choice["continuation"]) == 3
        assert choice.keys() == {
            "strategy", "kept", "mass", "token", "probability", "continuation", "text",
            "logprob", "finish_reason",
        }  # fmt: skip
    assert told["tokenize"]["warm_s"] > 0
    assert told["hardware"]["read_bytes_per_s"] > 0
    assert told["warm_passes"] >= 5
    assert [step["name"] for step in told["steps"]] == ["prefill", "decode"]
    for step in told["steps"]:
        assert step.keys() == {"name", "tokens", "context", "total", "stages", "parts", "layers"}
        for stage in [step["total"], *step["stages"], *step["parts"], *step["layers"]]:
            assert stage.keys() == {"name", "layer", "first_s", "warm_s", "cost"}


def test_the_terminal_shows_every_part(told, monkeypatch):
    monkeypatch.setattr("penstock.engine.explain.explain", lambda *_: told)  # it takes its time
    done = CliRunner().invoke(app, ["explain", HOSTILE], env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    for part in (
        "The likeliest next token is",
        "The prompt in",
        "What may come next",
        "What each way of choosing makes of it",
        "Prefill,",
        "Decode, 1 token",
        "layer 7",
        "beam 4",
        "Conditions",
    ):
        assert part in done.stdout
    assert not re.search(r"\x1b|\bnan\b|\binf\b|\bNone\b", done.stdout)


def test_markup_and_control_characters_are_shown_as_they_are(told):
    text = shown(told, 200, no_color=True)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)  # what rich itself writes for bold and dim
    assert not [c for c in plain if unicodedata.category(c) == "Cc" and c != "\n"]
    lines = plain.splitlines()
    tokens = lines[1 + next(i for i, line in enumerate(lines) if "The prompt in" in line)]
    squeezed = tokens.replace(" ", "").replace("·", " ")
    assert squeezed == "[red]x[/red] [/] \\x1b[2J\\x07 <0xCF><0x80>"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(told, width):
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown(told, width))
    assert max(cell_len(line) for line in plain.splitlines()) <= width
    if width >= 80:
        assert "…" not in plain  # nothing had to be cut


def test_a_long_prompt_is_abridged():
    told = explain("x = 1\n" * 60, "embedded", Settings(tokens=1))
    plain = shown(told, 80, no_color=True)
    assert f"{len(told.tokens) - 96:,} more" in plain
    assert f"The prompt in {len(told.tokens):,} tokens" in plain


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([""], 1, "the prompt is empty"),
        (["x " * 3000], 1, "Shorten the prompt to 2,046 or less"),
        (["x", "--tokens", "5000"], 1, "Lower tokens to 2,0"),
        (["x", "--model", "nowhere"], 1, "neither a directory nor one of embedded"),
        (["x", "--temperature", "0"], 1, "temperature=0.0 must be above 0"),
        (["x", "--top-p", "2"], 1, "top_p=2.0"),
        (["x", "--tokens", "0"], 2, "--tokens"),
        (["x", "--beams", "0"], 2, "--beams"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(arguments, code, message):
    done = CliRunner().invoke(app, ["explain", *arguments])
    assert done.exit_code == code
    assert message in " ".join(done.output.split())
