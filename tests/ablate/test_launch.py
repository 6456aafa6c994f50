"""Flags of servers: the command, what differs, what fails, and a real server of ours."""

import sys

import pytest

from penstock.ablate.launch import (
    Flag,
    Launch,
    Launched,
    Served,
    _notes,
    ablate_flags,
    differences,
)
from penstock.ablate.load import Scale
from penstock.record.verdict import Reason
from penstock.report import ablate_launch
from tests.report.page import Page

TINY = Scale(requests=4, samples=1, shared=32, own=16, output=6, seats=2, rounds=1)


def served(rate: float, **others) -> Served:
    told = {"ttft": 0.1, "tpot": 0.01, "peak_bytes": 1 << 30, **others}
    told = {"failed": 0, "doubts": [], **told}
    return Served(tokens_per_s=rate, start_s=1.0, requests=4, conditions={}, **told)


def launch(command="serve --port {port} {flag}", flags=("--fast",), **others) -> Launch:
    return Launch(command=command, flags=flags, scale=TINY, **others)


def test_the_command_is_words_and_no_shell_reads_it():
    plan = launch("serve 'my model' --port {port} {flag}", ("--kv 'q8 0'; rm",))
    assert plan.words("", 7) == ["serve", "my model", "--port", "7"]
    assert plan.words(plan.flags[0], 7) == [
        *("serve", "my model", "--port", "7"),
        *("--kv", "q8 0;", "rm"),
    ]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"command": "serve --port {port}"}, "{flag}"),
        ({"command": "serve {flag}"}, "{port}"),
        ({"url": "http://127.0.0.1:1"}, "{port}"),
        ({"flags": ()}, "--flag"),
        ({"flags": ("--a", "--a")}, "only once"),
    ],
)
def test_what_is_missing_is_said(wrong, says):
    with pytest.raises(ValueError, match=says):
        launch(**wrong)


def test_differences_are_within_rounds():
    base = [served(100.0), served(50.0), served(80.0)]
    flagged = [served(200.1), served(99.9), served(160.0)]
    found = {d.metric: d for d in differences(base, flagged, price=3.6)}
    assert found["tokens_per_s"].ratio == pytest.approx(2.0, rel=1e-3)
    assert found["tokens_per_s"].differs
    assert not found["ttft"].differs
    assert found["ttft"].ratio == pytest.approx(1.0)
    # 3.6 an hour is a thousandth a second, which a million tokens take 12,500 of at 80 each.
    assert found["cost"].base == pytest.approx(1e6 / 80 / 1000)
    assert found["cost"].ratio == pytest.approx(0.5, rel=1e-3)


def test_one_round_rules_out_no_chance():
    (one, *_) = differences([served(100.0)], [served(200.0)], price=1.0)
    assert one.ci95 is None
    assert not one.differs


def test_what_a_system_does_not_tell_is_not_compared():
    base, flagged = [served(1.0, peak_bytes=None)], [served(1.0, peak_bytes=None)]
    assert "peak_bytes" not in {d.metric for d in differences(base, flagged, price=1.0)}


def test_what_is_paid_nothing_for_has_no_cost():
    assert "cost" not in {d.metric for d in differences([served(1.0)], [served(2.0)], price=0.0)}


def test_servings_that_the_meter_calls_invalid_are_told():
    short = [Reason(code="too_short", says=f"the window is {s} s", remedy="") for s in (1, 2)]
    seen = {"": [served(1.0, doubts=short[:1])], "--a": [served(1.0, doubts=short[1:])]}
    assert _notes({**seen, "--b": [served(1.0)]}) == [
        "INVALID in 2 of 3 servings, too_short; the first: the window is 1 s."
    ]
    assert _notes({"": [served(1.0)]}) == []


def test_a_command_that_does_not_serve_is_quoted(tmp_path):
    program = "import sys; print('no such file: <model>'); sys.exit(4)"
    plan = launch(f'{sys.executable} -c "{program}" {{port}} {{flag}}')
    with pytest.raises(ValueError, match="ended with status 4: no such file: <model>"):
        ablate_flags(plan, tmp_path, price=1.0)
    with pytest.raises(ValueError, match="no-such-program"):
        ablate_flags(launch("no-such-program {port} {flag}"), tmp_path / "b", price=1.0)


def test_what_servers_say_is_escaped_in_the_page(tmp_path):
    bad = "<script>alert(1)</script>"
    found = Launched(
        command=f"serve {bad}",
        base=[served(1.0)],
        flags=[
            Flag(flag=bad, command=bad, differences=[], cannot=bad),
            Flag(
                flag="--b",
                command="b",
                differences=list(differences([served(1.0)], [served(2)], price=1.0)),
            ),
        ],
        conditions={"model": bad, "target_version": bad},
        notes=[bad],
    )
    page = tmp_path / "page.html"
    ablate_launch.write_html(found, page)
    text = page.read_text()
    assert "script" not in Page(text).tags
    assert "alert(1)" in text
    picture = tmp_path / "a.png"
    ablate_launch.write_png(found, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_two_flags_of_our_own_server_for_real(tmp_path):
    pytest.importorskip("torch", reason="our server needs PyTorch")
    plan = launch(
        f"{sys.executable} -m penstock serve embedded --port {{port}} {{flag}}",
        ("--max-running 1", "--no-such-flag"),
    )
    found = ablate_flags(plan, tmp_path, price=1.0)
    good, bad = found.flags
    assert good.cannot is None
    assert {d.metric for d in good.differences} >= {"tokens_per_s", "ttft", "tpot", "cost"}
    assert all(d.ratio > 0 for d in good.differences)
    assert "No such option" in bad.cannot
    assert bad.differences == []
    assert found.conditions["model"] == "embedded"
    assert found.base[0].requests == 4
    assert found.base[0].failed == 0
    assert any("too_few" in note for note in found.notes)  # four requests make no p90
    again = ablate_flags(plan, tmp_path, price=1.0)  # what was measured is not measured again
    assert again.base == found.base
    assert "read from" in again.notes[0] or "Gone on with" in again.notes[0]
