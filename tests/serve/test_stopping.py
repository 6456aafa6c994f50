"""Stop strings are found wherever they fall."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.serve.stopping import StopStrings
from tests.engine.model.test_tokenizer import PLACES, TEXTS, cut, in_tokens

SHORT = st.text(alphabet="ab", max_size=12)
PAIRS = st.lists(st.integers(0, 10**6), min_size=2, max_size=2)
STOPS = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=4)


def reference(text: str, stops: list[str], include: bool) -> tuple[str, bool]:
    """Character by character, with no cleverness."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end if include else end - max(map(len, ending))], True
    return text, False


@given(st.lists(SHORT, max_size=6), STOPS, st.booleans())
def test_any_cut_gives_the_same_text(parts: list[str], stops: list[str], include: bool) -> None:
    finder = StopStrings(stops, include=include)
    shown, found = "", False
    for part in parts:
        text, found = finder.push(part)
        shown += text
        if found:
            break
    else:
        shown += finder.flush()
    assert (shown, found) == reference("".join(parts), stops, include)


@given(TEXTS, PLACES, PLACES, st.lists(PAIRS, max_size=4), st.booleans())
def test_stop_strings_are_found_wherever_tokens_end(
    text: str, tokens: list[int], pushes: list[int], spans: list[list[int]], include: bool
) -> None:
    stops = [stop for span in spans if (stop := cut(text, span)[1])] + ["nowhere to be found"]
    tokenizer, ids = in_tokens(cut(text.encode(), tokens))
    stream, finder = tokenizer.stream(), StopStrings(stops, include=include)
    shown, found = "", False
    for some in cut(ids, pushes):
        piece, found = finder.push(stream.push(some))
        shown += piece
        if found:
            break
    else:
        piece, found = finder.push(stream.flush())
        shown += piece + ("" if found else finder.flush())
    assert (shown, found) == reference(text, stops, include)


@given(SHORT, STOPS)
def test_holds_back_only_what_may_become_a_stop_string(text: str, stops: list[str]) -> None:
    shown, found = StopStrings(stops).push(text)
    if not found:
        held = text[len(shown) :]
        assert not held or any(stop.startswith(held) for stop in stops)
