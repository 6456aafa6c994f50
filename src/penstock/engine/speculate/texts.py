"""Where runs of tokens occur in a text that grows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

# Lengths of the runs whose places are noted, longest first. Long runs find the few
# places that matter among thousands where a short one occurs.
GRAMS = (8, 4, 2)

# Places kept of one run, the latest.
PLACES = 16

BORDER = -1  # between two texts, where a token would be

# Tokens up to which a match is measured.
REACH = 64


class Texts:
    """Tokens, one text after the other, and the places of every short run in them.

    A place is the index after a run. The places that follow one and the same
    context are what a suffix tree keeps in one node; they are kept by the end of the
    context, so that a text can grow at either cost: a few dictionary entries a token.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._begun = 0  # where the last text begins
        self._places: dict[tuple[int, ...], list[int]] = defaultdict(list)

    def begin(self) -> None:
        """What is added from now on is another text."""
        self.tokens.append(BORDER)
        self._begun = len(self.tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Add to the last text."""
        for token in tokens:
            self.tokens.append(token)
            end = len(self.tokens)
            for gram in GRAMS:
                if end - gram >= self._begun:
                    places = self._places[tuple(self.tokens[end - gram : end])]
                    places.append(end)
                    if len(places) > PLACES:
                        del places[0]

    def matches(self, context: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Places that follow what `context` ends with: (tokens that match, place), latest first.

        A place at the end of a text, which nothing follows, is passed over.
        """
        for gram in GRAMS:
            if gram > len(context):
                continue
            found = False
            for place in reversed(self._places.get(tuple(context[-gram:]), [])):
                if place < len(self.tokens) and self.tokens[place] != BORDER:
                    found = True
                    yield self._common(context, place, gram), place
            if found:
                return

    def _common(self, context: Sequence[int], place: int, known: int) -> int:
        most = min(len(context), place, REACH)
        while known < most and self.tokens[place - 1 - known] == context[-1 - known]:
            known += 1
        return known
