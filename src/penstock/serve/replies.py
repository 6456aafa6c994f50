"""The answers of the two APIs, as OpenAI shapes them.

msgspec structs, because one of them is encoded for every request at every
step.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
from msgspec import UNSET, UnsetType

from penstock.serve.pieces import Piece


class CachedTokens(msgspec.Struct):
    """How much of the prompt was already computed, in tokens."""

    cached_tokens: int


class Usage(msgspec.Struct):
    """Tokens of a request; `completion_tokens` counts the one that stopped it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens

    @classmethod
    def of(cls, piece: Piece) -> Usage:
        """Return the usage up to and including `piece`."""
        total = piece.prompt_tokens + piece.output_tokens
        cached = CachedTokens(piece.cached_tokens)
        return cls(piece.prompt_tokens, piece.output_tokens, total, cached)


class Message(msgspec.Struct, omit_defaults=True):
    """A chat answer, or in a stream what is new of it."""

    role: str | None = None
    content: str | None = None


class TextChoice(msgspec.Struct):
    """The one choice of a completion."""

    text: str
    finish_reason: str | None
    index: int = 0
    logprobs: None = None


class MessageChoice(msgspec.Struct):
    """The one choice of a chat completion."""

    message: Message
    finish_reason: str | None
    index: int = 0
    logprobs: None = None


class DeltaChoice(msgspec.Struct):
    """The one choice of a chunk of a chat completion."""

    delta: Message
    finish_reason: str | None
    index: int = 0
    logprobs: None = None


Choices = list[TextChoice] | list[MessageChoice] | list[DeltaChoice]


class Reply(msgspec.Struct):
    """A whole answer, or one chunk of a stream."""

    id: str
    object: str
    created: int
    model: str
    choices: Choices
    usage: Usage | UnsetType | None = UNSET


class Shape(Protocol):
    """How one of the two APIs words its answers."""

    id_prefix: str
    prompt_field: str  # of the body: what the engine calls the prompt
    continues: bool  # whether the text goes on from the prompt's
    whole_object: str
    chunk_object: str

    def whole(self, text: str, finish_reason: str | None) -> Choices:
        """Return `choices` of an answer that is not streamed."""
        ...

    def chunk(self, text: str, finish_reason: str | None, first: bool) -> Choices:
        """Return `choices` of one chunk of a stream."""
        ...


class CompletionShape:
    """`/v1/completions`."""

    id_prefix = "cmpl-"
    prompt_field = "prompt"
    continues = True
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def whole(self, text: str, finish_reason: str | None) -> list[TextChoice]:
        """See `Shape`."""
        return [TextChoice(text, finish_reason)]

    def chunk(self, text: str, finish_reason: str | None, first: bool) -> list[TextChoice]:
        """See `Shape`."""
        return [TextChoice(text, finish_reason)]


class ChatShape:
    """`/v1/chat/completions`."""

    id_prefix = "chatcmpl-"
    prompt_field = "messages"
    continues = False
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def whole(self, text: str, finish_reason: str | None) -> list[MessageChoice]:
        """See `Shape`."""
        return [MessageChoice(Message("assistant", text), finish_reason)]

    def chunk(self, text: str, finish_reason: str | None, first: bool) -> list[DeltaChoice]:
        """See `Shape`. The role comes with the first text."""
        return [DeltaChoice(Message("assistant" if first else None, text), finish_reason)]
