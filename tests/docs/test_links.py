"""Every link between the project's pages leads somewhere."""

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, headings, links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page):
    broken = []
    for link in links(page.read_text()):
        path, _, anchor = link.partition("#")
        to = (page.parent / path).resolve() if path else page
        found = to.exists() and to.is_relative_to(ROOT)
        if not found or (anchor and to.suffix == ".md" and anchor not in anchors(to.read_text())):
            broken.append(link)
    assert not broken


def test_what_counts_as_a_link():
    text = "# A `b`, *c*\n[x](y.md#z) ![p](i.png) [w](https://w.org)\n```\n# no\n[q](r)\n```\n"
    assert links(text) == ["y.md#z", "i.png"]
    assert headings(text) == ["A `b`, *c*"]
    assert anchors(text) == {"a-b-c"}
