"""docs/techniques/: pages of the same form, commands that exist, figures that were found."""

import re
import shlex

import pytest
import typer

from penstock.cli import app
from tests.docs.pages import ROOT, TECHNIQUES, blocks, headings, prose

HEADINGS = ["Idea", "Formula and source", "Wins and loses", "Switch it on", "Elsewhere"]
PAGES = sorted(page for page in TECHNIQUES.glob("*.md") if page.name != "README.md")
OURS = [page for page in PAGES if "<!-- begin measured -->" in page.read_text()]


@pytest.fixture
def tools(monkeypatch):
    """The generator, as its own directory sees it."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import technique_curves

    return technique_curves


def options_of(command):
    """Every spelling of an option."""
    return {name for one in command.params for name in (*one.opts, *one.secondary_opts)}


def commands():
    group = typer.main.get_command(app)
    return {name: options_of(one) for name, one in group.commands.items()}


def by_name(page):
    return page.stem


@pytest.mark.parametrize("page", OURS, ids=by_name)
def test_every_page_has_the_same_parts(page):
    assert headings(page.read_text(), 2) == HEADINGS
    assert len(page.read_text().splitlines()) <= 80


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_command_in_a_block_exists_with_its_options(page):
    known = commands()
    lines = [line for block in blocks(page.read_text()) for line in block.splitlines()]
    asked = [shlex.split(line, comments=True) for line in lines if line.startswith("penstock ")]
    assert asked
    for _, name, *words in asked:
        assert name in known, name
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= known[name], (name, options - known[name])


@pytest.mark.parametrize("page", [*PAGES, TECHNIQUES / "README.md"], ids=by_name)
def test_every_switch_in_the_text_is_ours_but_those_of_others(page):
    known = commands()
    ours = prose(page.read_text()).partition("\n## Elsewhere")[0]
    quoted = [span for span in re.findall(r"`([^`]+)`", ours) if not span.startswith("python")]
    for span in quoted:
        if span.startswith("penstock "):
            assert span.split()[1] in known, span
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", span):
            assert any(option in options for options in known.values()), option


@pytest.mark.parametrize("page", OURS, ids=by_name)
def test_every_benchmark_it_names_exists(page):
    for name in re.findall(r"benchmarks\.(\w+)", page.read_text()):
        assert (ROOT / "benchmarks" / f"{name}.py").exists(), name


def test_the_index_has_every_page(tools):
    assert {page.stem for page in PAGES} == {one.page for one in tools.TECHNIQUES}


def test_every_figure_is_what_the_results_say(tools):
    stale = [
        path.name
        for path, text in tools.filled(tools.results()).items()
        if path.read_text() != text
    ]
    assert not stale, "run: python tools/technique_curves.py"


def test_every_picture_is_shown_and_can_be_drawn_again(tools):
    found = tools.results()
    drawn = {one.page: one.draw(found) for one in tools.TECHNIQUES if one.draw is not None}
    assert {path.stem for path in (TECHNIQUES / "images").glob("*.png")} == set(drawn)
    for name, panels in drawn.items():
        assert f"(images/{name}.png)" in (TECHNIQUES / f"{name}.md").read_text()
        for panel in panels:
            assert panel.rows
            assert panel.chart().to_dict()
