"""The HTML report: self-contained, escaped, equal to the summary, small, and it fits a phone."""

import re
import shutil
import subprocess

import pytest

from penstock.report import html, look
from penstock.report.table import LATENCIES, NONE
from tests.report.page import Page
from tests.report.runs import closed_point, dead_point, make_run, open_point

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def run():
    return make_run(closed_point(1, 40), closed_point(16, 320, failures=3))


@pytest.fixture(scope="module")
def source(run):
    return html.render(run)


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def test_the_sentences_and_conditions_are_there(run, page):
    for sentence in run.summary["sentences"]:
        assert sentence in page.text
    for said in ("held-out standard library, 64-512 tokens", "server version unknown"):
        assert said in page.text
    for note in run.summary["notes"]:
        assert note in page.text


def test_it_needs_nothing_from_outside(page):
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert "://" not in value, (tag, name, value)
        assert not value.startswith("//"), (tag, name, value)
        assert name not in ("src", "href", "xlink:href", "srcset", "action"), (tag, name, value)
        assert not name.startswith("on"), (tag, name, value)
    for style in page.styles:
        assert "://" not in style
        assert "@import" not in style
        assert not re.search(r"url\((?!#)", style)


def test_scripts_are_forbidden(page):
    policy = next(v for t, n, v in page.attributes if t == "meta" and v.startswith("default-src"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_ids_are_unique(page):
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    named = {m for _, _, v in page.attributes for m in re.findall(r"url\(#([^)]+)\)", v)}
    assert named <= set(ids)


def test_figures_equal_the_summary(run, page):
    points = run.summary["points"]
    latencies = {label: key for key, label in LATENCIES.items()}
    seen, label = set(), ""
    for row in page.rows:
        if row[-1] not in ("ms", "s") or len(row) < 4:
            continue
        *head, detail, first, second, unit = row  # a label stands for the rows below it too
        label = head[0] if head else label
        if label not in latencies:
            continue
        for cell, point in zip((first, second), points, strict=True):
            expected = point[latencies[label]][detail] * (1000 if unit == "ms" else 1)
            assert float(cell.replace(",", "")) == pytest.approx(expected, rel=5e-3)
            seen.add((label, detail))
    assert seen == {(label, q) for label in latencies for q in ("p50", "p90", "p99")}


@pytest.mark.parametrize(
    ("label", "detail", "value"),
    [
        ("Output", "", lambda p: p["output_throughput"]["value"]),
        ("Input", "", lambda p: p["input_throughput"]["value"]),
        ("Requests", "", lambda p: p["request_throughput"]["value"]),
        ("Speed", "p50", lambda p: p["user_speed"]["p50"]),
        ("Words", "p50", lambda p: p["words_per_second"]["p50"]),
        ("Hardware limit", "", lambda p: p["limit"]["output_throughput"]),
        ("Share of limit", "", lambda p: p["limit"]["fraction"] * 100),
        ("Finished", "", lambda p: p["completed"]),
        ("Errors", "", lambda p: p["errors"]["count"]),
    ],
)
def test_rates_equal_the_summary(run, page, label, detail, value):
    row = next(row for row in page.rows if row[:2] == [label, detail])
    shown = [float(cell.replace(",", "")) for cell in row[2:4]]
    assert shown == pytest.approx([value(p) for p in run.summary["points"]], rel=5e-3)


def test_errors_stand_apart_with_an_example(page):
    assert "3 × http_503" in page.text
    assert "http_503: overloaded, try <b>later</b>" in page.text


def test_foreign_text_is_only_text():
    point = dead_point()
    for record in point.records:
        record.error = '"><img src=x onerror=alert(1)>: <svg/onload=alert(2)>'
    point.conditions = {"model": "<script>alert(1)</script>", "<u>k</u>": "</style><script>"}
    run = make_run(
        point, notes=["<a href='http://evil.example'>n</a>"], target={"url": "http://h/<b>"}
    )
    source = html.render(run)
    page = Page(source)
    assert not {"script", "img", "a", "u"} & set(page.tags)
    for said in (
        "<script>alert(1)</script>",
        "<u>k</u>",
        "</style><script>",
        "<a href='http://evil.example'>n</a>",
        '"><img src=x onerror=alert(1)>',
    ):
        assert said in page.text


def test_title_is_the_model_else_the_target():
    point = closed_point(1, 20)
    assert html.title(make_run(point)) == "embedded"
    point.conditions = {"model": None}
    assert html.title(make_run(point, target={"url": "http://h:1"})) == "http://h:1"
    assert html.title(make_run(point, target={})) == "unknown target"


def test_a_run_without_any_answer_still_reports():
    page = Page(html.render(make_run(dead_point())))
    assert "No request finished; 20 failed." in page.text
    row = next(row for row in page.rows if row[:2] == ["Time to first token", "p50"])
    assert row[2] == NONE


def test_a_run_cut_before_its_first_point_still_reports():
    run = make_run(closed_point(1, 5), interrupted=True, points=[])
    page = Page(html.render(run))
    assert "This run was interrupted" in page.text
    assert "No request finished; 0 failed." in page.text


def test_a_limit_that_is_not_known_is_said_to_be_unknown():
    page = Page(html.render(make_run(open_point(4.0))))
    assert "Hardware limit unknown" in page.text
    assert "the server does not tell its model's size" in page.text


def test_a_run_of_a_hundred_thousand_events_stays_small(tmp_path):
    run = make_run(closed_point(4, 700), closed_point(16, 800))
    assert sum(len(r.event_ns) for p in run.points for r in p.records) > 100_000
    path = tmp_path / "report.html"
    html.write(run, path)
    assert path.stat().st_size < 1_000_000


def test_every_colour_of_a_figure_has_a_dark_twin(source):
    drawn = set(re.findall(r'(?:fill|stroke)="(#[0-9a-f]{3,8})"', source))
    light = [light for _, light, _ in look.palette(2)]
    assert len(light) == len(set(light))
    assert drawn <= set(light)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_horizontal_overflow(tmp_path, width):
    # More points than fit beside each other, and a word longer than the line.
    points = [closed_point(users, 5 * users, failures=1) for users in (1, 2, 3, 4, 6, 8, 12)]
    points[-1].conditions = {"model": "m" * 300, "long": "word " * 80}
    html.write(make_run(*points), tmp_path / "report.html")
    # The report allows no script, so a page around it measures it.
    (tmp_path / "ruler.html").write_text(
        f"""<body><iframe src="report.html" width="{width}" height="900" style="border:0"
        onload="const e = this.contentDocument.documentElement;
                document.body.innerHTML = 'measured ' + e.clientWidth + ' ' + e.scrollWidth
                  + ' ' + e.querySelectorAll('svg').length"></iframe></body>"""
    )
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update "
        "--allow-file-access-from-files --hide-scrollbars"
    )
    dom = subprocess.run(
        [
            CHROMIUM,
            *flags.split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            (tmp_path / "ruler.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    measured = re.search(r"measured (\d+) (\d+) (\d+)", dom)
    assert measured is not None, dom
    client, scroll, figures = map(int, measured.groups())
    assert client == width
    assert scroll <= client
    assert figures > 0
