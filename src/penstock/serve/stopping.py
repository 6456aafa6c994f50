"""Find stop strings in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on until one of `stops` is complete, and never a part of one.

    The stop string that ends first wins, and among those the longest, as if
    the text came one character at a time: how it was cut does not matter.
    With `include` the stop string is passed on too.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = stops
        self._include = include
        self._held = ""  # may be the beginning of a stop string

    def push(self, text: str) -> tuple[str, bool]:
        """Return the text that is safe to show now, and whether a stop string was found."""
        if not self._stops:
            return text, False
        seen = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := seen.find(stop)) >= 0]
        if found:
            end, start = min(found)
            self._held = ""
            return seen[: end if self._include else start], True
        keep = max(_overlap(seen, stop) for stop in self._stops)
        cut = len(seen) - keep
        self._held = seen[cut:]
        return seen[:cut], False

    def flush(self) -> str:
        """Return what was held back when the text ends without a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
