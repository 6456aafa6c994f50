"""The terminal report: says the sentences, shows the summary's figures, trusts no text."""

import io

import pytest
from rich.console import Console

from penstock.report.terminal import show
from tests.report.runs import closed_point, dead_point, make_run, open_point


def shown(run, width=120) -> str:
    out = io.StringIO()
    # A terminal, so that styles are really on.
    show(run, Console(file=out, width=width, force_terminal=True, color_system="standard"))
    return out.getvalue()


def plain(run, width=120) -> str:
    out = io.StringIO()
    show(run, Console(file=out, width=width))
    return out.getvalue()


@pytest.fixture(scope="module")
def run():
    return make_run(closed_point(1, 40), closed_point(16, 200, failures=3))


@pytest.mark.parametrize("width", [80, 120])
def test_opens_with_the_three_sentences(run, width):
    text = " ".join(plain(run, width).split())
    sentences = run.summary["sentences"]
    assert len(sentences) == 3
    assert text.startswith(" ".join(" ".join(sentences).split()))


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_console(run, width):
    assert max(len(line.rstrip()) for line in plain(run, width).splitlines()) <= width


def test_batch_1_stands_beside_batch_16(run):
    lines = plain(run, 80).splitlines()
    head = next(line for line in lines if "1 at once" in line and "16 at once" in line)
    output = next(line for line in lines if line.strip().startswith("Output "))
    for point, heading in zip(run.summary["points"], ("1 at once", "16 at once"), strict=True):
        end = head.rindex(heading) + len(heading)
        figure = output[:end].split()[-1].replace(",", "")
        assert float(figure) == pytest.approx(point["output_throughput"]["value"], rel=5e-3)


def test_points_that_do_not_fit_are_a_line_each_by_rising_load():
    run = make_run(*(open_point(rate, 12) for rate in (4, 2, 1, 8, 16)))
    lines = [line.split() for line in plain(run, 80).splitlines() if " req/s " in line]
    assert [line[0] for line in lines] == ["1", "2", "4", "8", "16"]
    by_rate = {p["load"]["rate"]: p for p in run.summary["points"]}
    for rate, _, output, *_ in lines:
        value = by_rate[float(rate)]["output_throughput"]["value"]
        assert float(output.replace(",", "")) == pytest.approx(value, rel=5e-3)


def test_the_verdict_is_the_last_word_before_the_files():
    run = make_run(closed_point(1, 20))
    assert not run.summary["verdict"]["valid"]
    text = plain(run, 80)
    assert "INVALID: these figures should not be claimed" in text
    for reason in run.summary["verdict"]["reasons"]:
        assert reason["says"] in " ".join(text.split())
        assert text.count(f"To do: {reason['remedy']}") <= 1
    assert text.index("INVALID") < text.index("Report ")
    valid = make_run(closed_point(16, 900))
    assert valid.summary["verdict"]["valid"], valid.summary["verdict"]["reasons"]
    assert "\n  VALID" in plain(valid)


def test_errors_conditions_and_files_are_named(run):
    text = plain(run)
    assert "16 at once: 3 × http_503" in text
    flat = " ".join(text.split())
    assert "prompts: held-out standard library, 64-512 tokens" in flat
    assert "server version: unknown" in flat
    assert "clipped to the model's context" in text
    assert "runs/20260102-030405/report.html" in text


def test_a_long_path_is_not_broken(run):
    long = make_run(closed_point(1, 20))
    long.summary["html"] = "/" + "deep/" * 60 + "report.html"
    assert long.summary["html"] in plain(long, 80)


def test_few_samples_are_marked(run):
    text = plain(run)
    assert "fewer samples than this percentile needs (p50 5, p99 299)" in text


def test_foreign_text_is_shown_literally():
    point = dead_point()
    for record in point.records:
        record.error = "[bold red]boom[/]\x1b[2J: detail"
    point.conditions = {"model": "[link=x]me[/link] [/] \x07", "[i]name[/i]": "v"}
    run = make_run(point, notes=["[reverse]note[/reverse]\x1b]0;title\x07"])
    text = shown(run)
    assert "[bold red]boom[/]\\x1b[2J" in text
    assert "[link=x]me[/link] [/] \\x07" in text
    assert "[i]name[/i]" in text
    assert "[reverse]note[/reverse]\\x1b]0;title\\x07" in text
    assert "\x1b[2J" not in text
    assert "\x1b]0;" not in text
    assert "\x07" not in text


def test_a_run_without_any_answer_still_reports():
    text = plain(make_run(dead_point()))
    assert "No request finished; 20 failed." in text
    assert "20 × connect" in text
    assert "No request finished; 0 failed." in plain(make_run(closed_point(1, 5), points=[]))
