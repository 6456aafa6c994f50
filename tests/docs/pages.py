"""The project's pages, and what stands in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TECHNIQUES = ROOT / "docs" / "techniques"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)


def prose(text):
    """A page without its blocks of code."""
    return _FENCE.sub("", text)


def blocks(text):
    """The blocks of code that are commands: those of no language, or of a shell's."""
    return [body for language, body in _FENCE.findall(text) if language in ("", "bash", "sh")]


def links(text):
    """Targets of links and pictures that lie in the repository."""
    return [to for to in _LINK.findall(prose(text)) if not re.match(r"[a-z]+:", to)]


def headings(text, level=None):
    """Headings, of one level or of all."""
    found = _HEADING.findall(prose(text))
    return [title for marks, title in found if level is None or len(marks) == level]


def anchors(text):
    """What a link to a part of this page may say behind its `#`, as GitHub makes it."""
    plain = (re.sub(r"[`*_]|\]\([^)]*\)|\[", "", title).lower() for title in headings(text))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in plain}
