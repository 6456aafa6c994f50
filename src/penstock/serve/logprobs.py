"""Log probabilities in the shapes that the APIs give them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.engine.model.tokenizer import Tokenizer
from penstock.engine.request import TokenLogprob
from penstock.serve.pieces import Spoken

# OpenAI's word for "as good as impossible"; JSON has no minus infinity.
_LOWEST = -9999.0


class CompletionLogprobs(msgspec.Struct):
    """Of `/v1/completions`: parallel lists, one entry for each token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None  # None when no others were asked
    text_offset: list[int]  # characters


class TopLogprob(msgspec.Struct):
    """A token that might have stood here. `bytes` is what it says, whole characters or not."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(msgspec.Struct):
    """A token and the likeliest ones in its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    """Of `/v1/chat/completions`."""

    content: list[ChatLogprob]


class PromptLogprob(msgspec.Struct):
    """One token at one place of the prompt. `rank` is 1 for the likeliest."""

    logprob: float
    rank: int
    decoded_token: str


# By token id, as JSON's keys are text; nothing comes before the first token.
PromptLogprobs = list[dict[str, PromptLogprob] | None]


class Speller:
    """Says tokens one by one, where a character may be cut and a special token has a name."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def completion(self, spoken: Sequence[Spoken], top: int) -> CompletionLogprobs:
        """Return OpenAI's lists; where `top` is 0 there are none of others."""
        return CompletionLogprobs(
            tokens=[self._text(token.id) for token in spoken],
            token_logprobs=[
                None if token.logprob is None else _finite(token.logprob.logprob)
                for token in spoken
            ],
            top_logprobs=[self._top_by_text(token, top) for token in spoken] if top else None,
            text_offset=[token.offset for token in spoken],
        )

    def chat(self, spoken: Sequence[Spoken], top: int) -> ChatLogprobs:
        """Return OpenAI's objects."""
        content = []
        for id_, logprob, _ in spoken:
            assert logprob is not None  # only a prompt's first token has none
            others = [
                TopLogprob(self._text(other), _finite(value), list(self._bytes(other)))
                for other, value in logprob.top[:top]
            ]
            own = (self._text(id_), _finite(logprob.logprob), list(self._bytes(id_)))
            content.append(ChatLogprob(*own, others))
        return ChatLogprobs(content)

    def prompt(
        self, ids: Sequence[int], logprobs: Sequence[TokenLogprob | None], top: int
    ) -> PromptLogprobs:
        """Return vLLM's objects: for each place its likeliest tokens and the prompt's own."""
        places: PromptLogprobs = []
        for id_, place in zip(ids, logprobs, strict=True):
            if place is None:
                places.append(None)
                continue
            ranked = [
                (other, value, rank) for rank, (other, value) in enumerate(place.top[:top], 1)
            ]
            places.append(
                {
                    str(other): PromptLogprob(_finite(value), rank, self._text(other))
                    for other, value, rank in [*ranked, (id_, place.logprob, place.rank)]
                }
            )
        return places

    def _top_by_text(self, token: Spoken, top: int) -> dict[str, float] | None:
        if token.logprob is None:
            return None
        # Best first, so of two tokens that read the same the likelier one stays.
        found: dict[str, float] = {}
        for other, value in [*token.logprob.top[:top], (token.id, token.logprob.logprob)]:
            found.setdefault(self._text(other), _finite(value))
        return found

    def _text(self, id_: int) -> str:
        r"""What a token says; a byte that is not of a whole character as `\xe6`, as OpenAI does."""
        return self._bytes(id_).decode("utf-8", errors="backslashreplace")

    def _bytes(self, id_: int) -> bytes:
        # A special token adds nothing to a text; here it is shown by its name.
        return self._tokenizer.token_bytes(id_) or (self._tokenizer.token(id_) or "").encode()


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST)
