"""Where runs of tokens occur in a text that grows."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

# Lengths of the runs whose places are noted, longest first. Long runs find the few
# places that matter among thousands where a short one occurs.
GRAMS = (8, 4, 2)

# Places followed of one run, the latest.
PLACES = 16

BORDER = -1  # between two texts, where a token would be

# Tokens up to which a match is measured.
REACH = 64

_BITS = 32  # of a token in a key
_MASKS = tuple((1 << _BITS * gram) - 1 for gram in GRAMS)
_NOWHERE = -1


class Texts:
    """Tokens, one text after the other, and the places of every short run in them.

    A place is the index after a run. The places that follow one and the same
    context are what a suffix tree keeps in one node; they are kept by the end of the
    context: of each run the latest place, and of each place the one before it. So a text
    can grow at either cost, a few dictionary entries a token, and there is nothing in it
    that Python's garbage collection would walk through.

    What is added is found once it is indexed: `index` goes on where it stopped.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._indexed = 0
        self._begun = 0  # where the text begins that is being indexed
        self._key = 0  # its last tokens, as many as the longest run has
        self._latest: tuple[dict[int, int], ...] = tuple({} for _ in GRAMS)
        self._before = tuple(array("q") for _ in GRAMS)

    def begin(self) -> None:
        """What is added from now on is another text."""
        self.tokens.append(BORDER)

    def extend(self, tokens: Sequence[int]) -> None:
        """Add to the last text."""
        self.tokens += tokens

    def index(self, most: int) -> None:
        """Note the places of at most so many more tokens."""
        if self._indexed == len(self.tokens):
            return
        mask, key = _MASKS[0], self._key
        books = list(zip(GRAMS, _MASKS, self._latest, self._before, strict=True))
        end = self._indexed
        for token in self.tokens[end : end + most]:
            end += 1
            if token == BORDER:
                self._begun = end
            else:
                key = (key << _BITS | token) & mask
            long = end - self._begun
            for gram, ours, latest, before in books:
                if long >= gram:
                    run = key & ours
                    before.append(latest.get(run, _NOWHERE))
                    latest[run] = end
                else:
                    before.append(_NOWHERE)
        self._indexed, self._key = end, key

    def matches(self, context: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Places that follow what `context` ends with: (tokens that match, place), latest first.

        A place at the end of a text, which nothing follows, is passed over.
        """
        key = 0
        for token in context[-GRAMS[0] :]:
            key = key << _BITS | token
        for gram, mask, latest, before in zip(
            GRAMS, _MASKS, self._latest, self._before, strict=True
        ):
            if gram > len(context):
                continue
            found = False
            place = latest.get(key & mask, _NOWHERE)
            for _ in range(PLACES):
                if place == _NOWHERE:
                    break
                if place < len(self.tokens) and self.tokens[place] != BORDER:
                    found = True
                    yield self._common(context, place, gram), place
                place = before[place - 1]
            if found:
                return

    def _common(self, context: Sequence[int], place: int, known: int) -> int:
        most = min(len(context), place, REACH)
        while known < most and self.tokens[place - 1 - known] == context[-1 - known]:
            known += 1
        return known
