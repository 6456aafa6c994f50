"""Prompts of a benchmark made shorter before anything is measured."""

from __future__ import annotations

import sys
from functools import cached_property

import msgspec

from penstock.prompts.keep import Rule
from penstock.prompts.scorer import Scorer
from penstock.prompts.shorten import may_shorten, shortened, with_contents
from penstock.workload.prompts import Content


class Ahead:
    """A `workload.prompts.Shortener` with a small model, which is loaded when first asked.

    Raises `ValueError` for a share that is none.
    """

    def __init__(self, model: str, keep: float) -> None:
        self.keep = keep
        self._model = model
        self._rule = Rule(keep=keep)

    @property
    def description(self) -> str:
        """See `Shortener`."""
        return (
            f"shortened beforehand to {self.keep:.0%} by what {self._model} finds surprising "
            f"(by the {self._rule.by}, its time not counted)"
        )

    def text(self, text: str) -> str:
        """See `Shortener`: nothing is protected, since prompts begin and end anywhere."""
        rule = msgspec.structs.replace(self._rule, first=0, last=0)
        return self._shorter([text], rule)[0]

    def contents(self, contents: list[Content]) -> list[Content]:
        """See `Shortener`."""
        places = [
            (at, turn)
            for at, content in enumerate(contents)
            for turn, message in enumerate(_messages(content))
            if may_shorten(message)
        ]
        texts = [_messages(contents[at])[turn]["content"] for at, turn in places]
        made = dict(zip(places, self._shorter(texts, self._rule), strict=True))
        changed: list[Content] = []
        for at, content in enumerate(contents):
            own = {turn: text for (place, turn), text in made.items() if place == at}
            if isinstance(content, str):
                changed.append(own.get(0, content))
            else:
                changed.append(with_contents(content, own))
        return changed

    @cached_property
    def _scorer(self) -> Scorer:
        return Scorer(self._model)

    def _shorter(self, texts: list[str], rule: Rule) -> list[str]:
        size = sum(map(len, texts))
        print(f"Shortening {size:,} characters of prompts with {self._model} ...", file=sys.stderr)
        tokenizer = self._scorer.tokenizer
        ids = [tokenizer.encode(text, special=False) for text in texts]
        rated = zip(ids, self._scorer.surprise(ids), strict=True)
        return [shortened(tokenizer, one, rule, surprise).text for one, surprise in rated]


def _messages(content: Content) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}] if isinstance(content, str) else content
