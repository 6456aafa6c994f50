"""Prompts of a benchmark, shortened before it begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.prompts.ahead import Ahead
from penstock.workload import stdlib
from penstock.workload.lengths import parse_lengths
from penstock.workload.prompts import CutPrompts, GivenPrompts

TEXT = "\n".join(text for _, text in list(stdlib.texts("held_out"))[:3])[:9000]


@pytest.fixture(scope="module")
def ahead() -> Ahead:
    return Ahead("embedded-draft", 0.5)


def test_prompts_are_cut_from_a_shorter_text(ahead: Ahead) -> None:
    whole = CutPrompts(TEXT, source="sources", salt="s", seed=0)
    made = whole.shortened(ahead)
    assert 0.35 * len(TEXT) < len(made.text) < 0.6 * len(TEXT)
    assert "sources, shortened beforehand to 50 % by what embedded-draft" in (
        made.description.replace("50%", "50 %")
    )
    assert made.prompt(0, 100) != whole.prompt(0, 100)
    assert made.prompt(0, 100).splitlines()[0] == whole.prompt(0, 100).splitlines()[0]


def test_given_prompts_and_chats_are_shortened_each(ahead: Ahead, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    chat = [{"role": "system", "content": TEXT}, {"role": "user", "content": TEXT}]
    lines = [{"prompt": TEXT}, {"messages": chat}, {"prompt": "short"}]
    file.write_text("\n".join(map(json.dumps, lines)))
    made = GivenPrompts(file).shortened(ahead)
    first, second, third = (made.prompt(at, 0) for at in range(3))
    assert len(first) < 0.65 * len(TEXT)
    assert isinstance(second, list)
    assert second[0] == chat[0]
    assert second[1]["content"] == first
    assert third == "short"
    assert "shortened beforehand" in made.description


def test_lengths_shrink_with_the_prompts() -> None:
    assert str(parse_lengths("64-256").times(0.5)) == "32-128"
    assert str(parse_lengths("lognormal:1000,300").times(0.25)) == "lognormal:250,75"
    assert str(parse_lengths("1").times(0.25)) == "1"
    with pytest.raises(ValueError, match="keep=2"):
        Ahead("embedded-draft", 2.0)
