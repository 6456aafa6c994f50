r"""Prompts without text, for a simulated fleet: what they are made of, and how long it is.

A *sketch* is a text in which each line names a piece and its tokens,
`prefix 3\t6000`. Prompts that begin with equal pieces begin alike. Sketches
go where a prompt's text would go, so that every workload can be simulated;
nothing but the simulator reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from penstock.workload.pieces import Piece
from penstock.workload.prompts import CHARACTERS_PER_TOKEN, Content, as_text


class Sketches:
    """A source of prompts that are sketches; see `Prompts`."""

    sized = True
    exact = True
    unique = True
    description = "no text: what prompts share, and how long they are"

    def prompt(self, index: int, tokens: int) -> str:
        """See `Prompts`."""
        return f"own {index}\t{tokens}\n"

    def join(self, pieces: Sequence[Piece]) -> str:
        """The prompt of these pieces, in their order; pieces without tokens are left out."""
        return "".join(f"{key}\t{tokens}\n" for key, tokens in pieces if tokens > 0)


def pieces_of(content: Content) -> list[Piece]:
    """The pieces of a sketch; a line that is plain text is a piece of as many tokens as usual."""
    if isinstance(content, str):
        return list(_lines(content))
    # A conversation goes on: its earlier messages were read before.
    return [piece for message in content for piece in _message(as_text([message]))]


@lru_cache(1 << 14)
def _message(text: str) -> tuple[Piece, ...]:
    return tuple(_lines(text))


def _lines(text: str) -> Iterator[Piece]:
    for line in text.splitlines():
        key, tab, tokens = line.rpartition("\t")
        if tab and tokens.isdigit():
            yield key, int(tokens)
        elif line:
            yield line, max(1, round((len(line) + 1) / CHARACTERS_PER_TOKEN))
