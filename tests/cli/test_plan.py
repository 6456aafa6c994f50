"""`penstock plan` as a user meets it."""

import json
import re

import msgspec
import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.simulate.fleet import read_fleet
from tests.plan.asked import brief
from tests.plan.paths import PRICES, TRACES
from tests.report.page import Page

__all__ = ["brief"]
pytestmark = pytest.mark.usefixtures("brief")
ASKED = (
    *("--model", "llama-3.1-8b", "--rate", "10", "--prompt", "800", "--output", "100"),
    *("--hardware", "h100", "--whole", "--weights", "bf16"),
)


def plan(*arguments):
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_pocket_estimate():
    found = json.loads(plan("--quick", "50tps", "--output", "1000", "--json").stdout)
    assert found["answer_s"] == 20
    assert json.loads(plan("--quick", "50tps", "--output", "200", "--json").stdout)["answer_s"] == 4
    text = " ".join(
        plan("--quick", "50tps", "--output", "1000", "--concurrent", "40").output.split()
    )
    assert "an answer of 1,000 tokens takes 20.0 s" in text
    assert "2,000 tokens/s of the system" in text
    assert "Warning: This is arithmetic on one speed" in text


def test_everything_at_once(tmp_path):
    html, png, fleet = tmp_path / "p.html", tmp_path / "p.png", tmp_path / "f.toml"
    result = plan(
        *ASKED, "--day", "0.8", "--batch-share", "0.3", "--api-price", "0.15,0.60",
        "--html", str(html), "--png", str(png), "--fleet", str(fleet), "--price", "h100=2.5",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    for part in (
        "Take 1 replica of 1 × h100, bf16",
        "ttft.p95",
        "in the queue",
        "limits hold up to",
        "An API at 0.15,0.60",
        "of requests off the peak",
        "follows the load",
        "Do not quantize",
        "It rests on one capability",
        "It moves device-seconds",
        "Another answer is right",
        "$2.5 an hour: as given",
    ):
        assert part in text, part
    page = Page(html.read_text())
    assert "script" not in page.tags
    assert page.tags.count("svg") == 6  # three figures in two sizes
    assert "It rests on one capability" in page.text
    assert png.read_bytes().startswith(b"\x89PNG")
    assert read_fleet(fleet).replicas[0].count == 1


def test_json_is_all_that_is_printed():
    found = json.loads(plan(*ASKED, "--json").stdout)
    [answer] = found["answers"]
    assert answer["fleets"][0]["replicas"] == 1
    assert len(answer["ends"]) == 3
    assert {advice["topic"] for advice in answer["advice"]} == {"split", "quantize", "speculate"}
    msgspec.convert(answer["sim"], dict)


def test_users_are_a_rate():
    asked = [a for a in ASKED if a not in ("--rate", "10")]
    found = json.loads(
        plan(*asked, "--users", "6000", "--requests-per-user-hour", "6", "--json").stdout
    )
    assert found["answers"][0]["demand"]["rate"] == pytest.approx(10)


def test_a_day_that_was_recorded():
    path = TRACES / "azure2023_conv.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    result = plan(
        *("--model", "llama-3.1-8b", "--trace", str(path), "--hardware", "h100", "--whole"),
        *("--weights", "bf16", "--startup", "60", "--slo", "ttft.p95<1s,tpot.p95<20ms", "--json"),
    )
    assert result.exit_code == 0, result.output
    [answer] = json.loads(result.stdout)["answers"]
    hours = answer["hours"]
    assert answer["demand"]["rate"] > 1.2 * 19_366 / 3502  # the busiest minute's
    assert answer["prompt"].startswith("lognormal:1154")
    assert len(hours["replicas"]) == 58
    [fleet, *_] = answer["fleets"]
    paid = sum(hours["replicas"]) / 60 * fleet["devices"] / fleet["replicas"]
    assert hours["device_hours_followed"] == pytest.approx(paid)
    assert hours["peak_replicas"] == max(hours["replicas"])


def test_a_price_from_a_list():
    if not PRICES.exists():
        pytest.skip(f"{PRICES} is not here")
    [answer] = json.loads(plan(*ASKED, "--api-price", f"{PRICES}#gpt-4o-mini", "--json").stdout)[
        "answers"
    ]
    assert answer["api"][0]["api_per_request"] == pytest.approx((800 * 0.15 + 100 * 0.6) / 1e6)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 2, "--model: is missing"),
        (("--model", "llama-3.1-8b"), 2, "--users, --rate or --trace: is missing"),
        ((*ASKED[:4], "--output", "9"), 2, "--prompt: is missing"),
        ((*ASKED, "--model", "llama-9"), 2, "--model: .*llama-9"),
        ((*ASKED, "--rate", "-1"), 1, "rate=-1"),
        ((*ASKED, "--users", "5"), 2, "--rate: this is what --users say"),
        ((*ASKED, "--requests-per-user-hour", "5"), 2, "belongs to --users"),
        ((*ASKED, "--hardware", "h9000"), 2, "--hardware: .*h9000"),
        ((*ASKED, "--price", "h200=1"), 2, "h200 is not among --hardware"),
        ((*ASKED, "--price", "h100"), 2, "write DEVICE=DOLLARS"),
        ((*ASKED, "--price", "h100=-1"), 1, "price h100=-1 must be above zero"),
        ((*ASKED, "--slo", "ttft"), 2, "--slo: cannot read the limit"),
        ((*ASKED, "--slo", "tpot<1ms"), 1, "slo: no fleet can keep it"),
        ((*ASKED, "--output", "0"), 2, "--output: .*less than one token"),
        ((*ASKED, "--api-price", "1"), 2, "--api-price: cannot read the API price"),
        ((*ASKED, "--day", "2"), 1, "depth of a day is between 0 and 1"),
        ((*ASKED, "--batch-share", "2"), 1, "batch_share=2 must lie between 0 and 1"),
        ((*ASKED, "--cached", "-1"), 1, "cached=-1 must lie between 0 and 1"),
        ((*ASKED, "--weights", "fp9"), 1, "fp9"),
        ((*ASKED, "--steptime", "nowhere.toml"), 1, "nowhere.toml cannot be read"),
        ((*ASKED, "--startup", "5"), 2, "belongs to --trace or --day"),
        ((*ASKED, "--concurrent", "5"), 2, "belongs to --quick"),
        ((*ASKED, "--trace", "x"), 2, "--rate: this is set by the trace"),
        (("--model", "llama-3.1-8b", "--trace", "nowhere"), 2, "--trace: nowhere does not exist"),
        ((*ASKED, "--model", "qwen3-8b", "--fleet", "x"), 2, "--fleet: holds one fleet"),
        (("--quick", "50tps", "--model", "llama-3.1-8b"), 2, "belongs to a plan, without --quick"),
        (("--quick", "fast"), 2, "--quick: cannot read the speed"),
        (("--quick", "50tps", "--concurrent", "0"), 1, "concurrent must be above zero"),
        (("--quick", "50tps", "--output", "1-5"), 2, "no count of tokens"),
    ],
)
def test_bad_input_is_named(arguments, code, told):
    result = plan(*arguments)
    text = " ".join(re.sub("[│╭╰─╮╯]", " ", result.output + result.stderr).split())
    assert result.exit_code == code, text
    for part in told.split(": "):
        assert re.search(part, text), text
