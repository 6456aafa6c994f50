"""A draft model must mean the same by a token as the model that it guesses for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.engine.model.config import ModelConfig
from penstock.engine.options import EngineOptions
from penstock.engine.speculate.choose import draft_config


def chosen(model: Path, draft: Path) -> Path | None:
    options = EngineOptions(speculate="draft", draft_model=str(draft))
    found = draft_config(str(model), ModelConfig.load(model), options)
    return None if found is None else found[1]


@pytest.fixture
def drafting(draft: Path, tmp_path: Path) -> Callable[[Callable[[Any], object]], Path]:
    """The draft model with a change to its `tokenizer.json`."""

    def made(change: Callable[[Any], object]) -> Path:
        shutil.copytree(draft, tmp_path, dirs_exist_ok=True)
        content = json.loads((draft / "tokenizer.json").read_text())
        change(content)
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        return tmp_path

    return made


def test_another_tokenizer_is_refused(checkpoint: Path, drafting: Any) -> None:
    def exchange(content: Any) -> None:
        words = content["model"]["vocab"]
        words["a"], words["b"] = words["b"], words["a"]

    with pytest.raises(ValueError, match=r"draft_model=.* spells token 64 'b', .* 'a': .* lookup"):
        chosen(checkpoint, drafting(exchange))


def test_the_same_tokens_in_another_file_are_welcome(checkpoint: Path, drafting: Any) -> None:
    def move(content: Any) -> None:
        words = content["model"]["vocab"]
        content["model"]["vocab"] = dict(reversed(words.items()))

    draft = drafting(move)
    assert (draft / "tokenizer.json").read_bytes() != (checkpoint / "tokenizer.json").read_bytes()
    assert chosen(checkpoint, draft) == draft


def test_added_tokens_may_have_other_names(checkpoint: Path, drafting: Any) -> None:
    def rename(content: Any) -> None:
        content["added_tokens"][1]["content"] = "<turn>"

    draft = drafting(rename)
    assert "<turn>" in (draft / "tokenizer.json").read_text()
    assert chosen(checkpoint, draft) == draft


def test_without_a_tokenizer_the_size_decides(checkpoint: Path, drafting: Any) -> None:
    draft = drafting(lambda content: None)
    (draft / "tokenizer.json").unlink()
    assert chosen(checkpoint, draft) == draft


def test_a_broken_tokenizer_is_named(checkpoint: Path, drafting: Any) -> None:
    draft = drafting(lambda content: None)
    (draft / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=rf"speculate=draft .*{draft}/tokenizer\.json"):
        chosen(checkpoint, draft)
