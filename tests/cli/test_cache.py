"""`penstock cache` as a user meets it."""

import json
from itertools import islice

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.plan import cache as plan
from tests.report.page import Page

FLEET = """
[[replicas]]
costs = { step = 0.01, compute = 1e-5 }
kv_tokens = 4096
kv_bytes_per_token = 1e5
page_tokens = 512
policy = { preset = "penstock", max_running = 4, max_step_tokens = 2048 }
"""


@pytest.fixture
def trace(tmp_path):
    """Three users, each with a conversation that grows by a block a turn."""
    lines = [
        {
            "timestamp": 1000 * (3 * turn + user),
            "input_length": 512 * (turn + 1) + 10,
            "output_length": 20,
            "hash_ids": [100 * user + i for i in range(turn + 2)],
        }
        for turn in range(6)
        for user in range(3)
    ]
    path = tmp_path / "<b>trace.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "fleet.toml").write_text(FLEET)
    return path


def penstock(*arguments, exit_code=0):
    result = CliRunner().invoke(app, ["cache", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == exit_code, result.output
    return " ".join(result.output.split())


def on(trace):
    return ("--fleet", trace.parent / "fleet.toml")


def test_it_names_the_knee_and_its_reason(trace):
    said = penstock(trace, *on(trace))
    assert "More memory stops helping at" in said
    assert "every reusable prefix stays" in said
    assert "The replica by itself holds 0.41 GB (4,096 tokens)" in said
    assert "Hits are exact for this scheduler" in said


def test_json_holds_the_sweep_and_nothing_else(trace):
    result = CliRunner().invoke(
        app, ["cache", str(trace), *map(str, on(trace)), "--sizes", "4k,0.8GB", "--json"]
    )
    found = json.loads(result.stdout)
    assert [pool["tokens"] for pool in found["pools"][:2]] == [3584, 7680]
    assert found["knee"]["reason"] == "prefixes"
    assert found["unbounded"]["hit_rate"] == pytest.approx(3 * 512 * 15 / (3 * (512 * 21 + 60)))


def test_page_and_picture_are_written_and_escape_what_they_are_told(trace, tmp_path):
    page, picture = tmp_path / "c.html", tmp_path / "c.png"
    penstock(trace, *on(trace), "--points", 4, "--html", page, "--png", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "<b>trace" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("<svg") == 6  # three figures, for two sizes of screen
    assert any("knee" in row[-1] for row in Page(text).rows)


def test_a_device_and_a_model_say_how_much_there_is(trace):
    said = penstock(trace, "--model", "llama-3.1-8b", "--on", "h100", "--points", 3)
    assert "a token's K and V take 131.1 kB, a page holds 512 tokens" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "say what serves"),
        (("--model", "llama-3.1-8b", "--on", "h10"), "did you mean 'h100'"),
        (("--model", "llama-3.1-405b", "--on", "h100"), "take more devices"),
        (("--fleet", "nowhere.toml"), "there is no fleet file nowhere.toml"),
        (("--steptime", "none.toml"), "none.toml cannot be read"),
        (("--fleet", "FLEET", "--sizes", "1k"), "cannot hold the longest request, 3,102 tokens"),
        (("--fleet", "FLEET", "--sizes", "much"), "'much' is no size"),
        (("--fleet", "FLEET", "--concurrency", "3"), "says when requests come"),
        (("--fleet", "FLEET", "--page-tokens", "100"), "neither divides"),
        (("--fleet", "FLEET", "--png", "/nowhere/c.png"), "No such file"),
    ],
)
def test_bad_input_is_told_what_and_way_out(trace, arguments, says):
    named = [on(trace)[1] if each == "FLEET" else each for each in arguments]
    assert says in penstock(trace, *named, exit_code=1)


def test_a_trace_that_shares_nothing_is_refused(tmp_path, trace):
    path = tmp_path / "plain.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 10, "output_length": 5}')
    assert "does not say which prompts begin alike" in penstock(path, *on(trace), exit_code=1)
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00,10,5\n")
    assert "(Azure) does not say" in penstock(path, *on(trace), exit_code=1)


@pytest.mark.parametrize("option", ["--speed", "--rate"])
def test_a_factor_is_above_zero(trace, option):
    assert option in penstock(trace, *on(trace), option, "0", exit_code=2)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("--fleet", "costs", "--on", "h100"), "--on"),
        (("--fleet", "costs", "--weights", "fp8"), "--weights"),
        (("--steptime", "x.toml", "--tp", "2"), "--tp"),
        (("--steptime", "x.toml", "--kv", "fp8"), "--kv"),
        (("--fleet", "costs", "--sizes", "1M", "--points", "3"), "--points"),
    ],
)
def test_what_would_change_nothing_is_refused(trace, arguments, option):
    assert f"{option}: this" in penstock(trace, *arguments, exit_code=2)


@pytest.mark.parametrize("done", [1, 2])
def test_ctrl_c_leaves_what_is_done(trace, monkeypatch, tmp_path, done):
    whole = plan.pools

    def broken(asked, sizes, *, closer):
        yield from islice(whole(asked, sizes, closer=closer), done)
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "pools", broken)
    picture = tmp_path / "c.png"
    said = penstock(trace, *on(trace), "--png", picture, exit_code=130)
    assert f"Interrupted: {done} sizes are done" in said
    assert picture.exists()


def test_ctrl_c_before_anything_is_done_says_so(trace, monkeypatch):
    def broken(asked, sizes, *, closer):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(plan, "pools", broken)
    assert "interrupted before the first size" in penstock(trace, *on(trace), exit_code=130)
