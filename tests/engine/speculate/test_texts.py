"""Places of runs against a plain search, and what the copying drafters make of them."""

from __future__ import annotations

import gc
import random

import pytest

from penstock.engine.generation import generations
from penstock.engine.request import GenerateRequest, SamplingParams
from penstock.engine.speculate.copying import INDEXED, MOST, Lookup, Suffix
from penstock.engine.speculate.texts import GRAMS, PLACES, REACH, Texts
from penstock.schedule import Sequence


def plainly(texts: list[list[int]], context: list[int]) -> list[tuple[int, int]]:
    """All places by the definition: common suffix of context and text, at least a gram long."""
    found, begun = [], 0
    for text in texts:
        begun += 1  # the border before it
        for end in range(1, len(text)):  # something follows
            common = 0
            while (
                common < min(len(context), end) and text[end - 1 - common] == context[-1 - common]
            ):
                common += 1
            found.append((common, begun + end))
        begun += len(text)
    for gram in GRAMS:
        if of_gram := [match for match in found if match[0] >= gram]:
            return sorted(of_gram, key=lambda match: -match[1])
    return []


@pytest.mark.parametrize("seed", range(20))
def test_matches_are_those_of_a_plain_search(seed: int) -> None:
    rng = random.Random(seed)
    texts = [[rng.randrange(3) for _ in range(rng.randrange(0, 30))] for _ in range(2)]
    index = Texts()
    for text in texts:
        index.begin()
        for token in text:
            index.extend([token])
            if rng.random() < 0.3:
                index.index(rng.randrange(1, 5))
    index.index(1000)
    context = [rng.randrange(3) for _ in range(rng.randrange(2, 12))]
    expected = plainly(texts, context)
    found = list(index.matches(context))
    assert found == expected[:PLACES]


def test_a_match_is_measured_no_further_than_its_reach() -> None:
    index = Texts()
    index.extend([1] * 500)
    index.index(500)
    assert {common for common, _ in index.matches([1] * 400)} == {REACH}


def test_a_text_is_indexed_a_piece_at_a_time() -> None:
    index = Texts()
    index.extend([*range(100), 5, 6, 7])
    assert list(index.matches([5, 6])) == []
    index.index(7)
    assert [place for _, place in index.matches([5, 6])] == [7]
    index.index(1000)
    assert [place for _, place in index.matches([5, 6])] == [102, 7]


def test_the_index_of_a_long_prompt_is_nothing_that_is_collected() -> None:
    index = Texts()
    index.extend([random.Random(0).randrange(100_000) for _ in range(20_000)])
    gc.collect()
    before = len(gc.get_objects())
    index.index(20_000)
    assert len(gc.get_objects()) - before < 100


def test_a_long_prompt_is_indexed_over_several_steps_and_then_found() -> None:
    text = [*range(10, 10 + 3 * INDEXED), 11, 12]
    drafter = Lookup()
    sequence, generation = running(text)
    offers = [drafter.offer(sequence, generation) for _ in range(4)]
    assert offers[0]  # the front first, then the rest
    assert len(offers[3]) == MOST
    drafter = Lookup()
    late = [*range(10, 10 + 3 * INDEXED), 5 + 3 * INDEXED, 6 + 3 * INDEXED]
    sequence, generation = running(late)
    assert [bool(drafter.offer(sequence, generation)) for _ in range(4)] == [
        False,
        False,
        True,
        True,
    ]


def running(tokens: list[int], name: str = "a") -> tuple[Sequence, object]:
    request = GenerateRequest(id=name, prompt=tokens, params=SamplingParams(max_tokens=50))
    (generation,) = generations(request, 0, frozenset(), len(tokens) + 50)
    return Sequence(id=name, prompt=len(tokens), limit=len(tokens) + 50), generation


def guesses(drafter, tokens: list[int], name: str = "a", count: int = MOST) -> list[int]:
    sequence, generation = running(tokens, name)
    offered = drafter.offer(sequence, generation)
    drafter.guess({sequence: min(count, len(offered))}, {sequence: generation})
    assert len(generation.guess) == min(count, len(offered))
    return generation.guess


def test_lookup_copies_what_followed_the_longest_passage() -> None:
    text = [1, 2, 3, 4, 50, 51, 9, 3, 4, 60, 61, 8, 2, 3, 4]
    assert guesses(Lookup(), text)[:2] == [50, 51]  # after 2 3 4, not after the later 3 4
    assert guesses(Lookup(), [1, 2, 3, 4]) == []


def test_lookup_takes_the_latest_of_equals_and_sees_new_tokens() -> None:
    drafter = Lookup()
    sequence, generation = running([3, 4, 60, 7, 3, 4, 70, 7])
    assert drafter.offer(sequence, generation) == []
    generation.tokens += [3, 4]
    offered = drafter.offer(sequence, generation)
    drafter.guess({sequence: 1}, {sequence: generation})
    assert len(offered) > 1
    assert generation.guess == [70]


def test_suffix_follows_the_most_frequent_path_and_no_further_than_it_matched() -> None:
    text = [3, 4, 60, 1, 3, 4, 70, 2, 3, 4, 60, 5, 3, 4]
    assert guesses(Suffix(), text) == [60, 5]  # of equal votes, the latest place; two matched


def test_suffix_remembers_what_others_said() -> None:
    drafter = Suffix()
    sequence, generation = running([7, 7], "before")
    generation.tokens += [5, 6, 21, 22, 23]
    drafter.ended(sequence, generation)
    assert guesses(drafter, [9, 5, 6], "after") == [21, 22]
    assert guesses(Lookup(), [9, 5, 6]) == []
