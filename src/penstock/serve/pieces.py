"""From the engine's token ids to text that may be shown."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from penstock.engine.model.tokenizer import TextStream
from penstock.engine.request import Delta, FinishReason, Timing, TokenLogprob
from penstock.serve.client import EngineError
from penstock.serve.stopping import StopStrings


class Spoken(NamedTuple):
    """One token of a text, and where in it the token begins, in characters."""

    id: int
    logprob: TokenLogprob | None  # None for a prompt's first token
    offset: int


@dataclass(slots=True)
class Piece:
    """Text of one choice that became ready at once. Counts are of the choice so far, in tokens."""

    index: int
    text: str
    finish_reason: FinishReason | None
    output_tokens: int
    cached_tokens: int
    spoken: list[Spoken]  # empty unless log probabilities are asked
    timing: Timing | None  # with the finish reason, if the engine ended the choice


class ChoiceText:
    """The text of one choice as it grows, cut before the first of the `stop` strings.

    Every piece but the last has text: tokens whose text is not final yet (half
    a character, the beginning of a stop string) are counted with the piece
    that shows them. The last one has `finish_reason`. Stop strings are looked
    for in the text after the first `min_tokens` tokens. A token of `hidden` that
    stops the choice is no text.
    """

    def __init__(
        self,
        index: int,
        decoding: TextStream,
        stop: Sequence[str] = (),
        *,
        include_stop: bool = False,
        min_tokens: int = 0,
        hidden: Collection[int] = (),
    ) -> None:
        self.index = index
        self.finished = False
        self.output_tokens = 0
        self._decoding = decoding
        self._decoded = 0  # characters
        self._stops = StopStrings(stop, include=include_stop) if stop else None
        self._hidden = hidden
        self._min_tokens = min_tokens
        self._ready = ""  # shown with the next piece
        self._spoken: list[Spoken] = []

    def begin_with(
        self, prompt: Sequence[int], logprobs: Sequence[TokenLogprob | None] | None
    ) -> None:
        """Let the text begin with the prompt's; its `logprobs`, if any, are reported too."""
        if logprobs is None:
            self._ready = self._decode(prompt)
            return
        for token, logprob in zip(prompt, logprobs, strict=True):
            self._spoken.append(Spoken(token, logprob, self._decoded))
            self._ready += self._decode([token])

    def push(self, delta: Delta) -> Piece | None:
        """Take what a step added; return what may be shown now.

        Raises `EngineError` if the engine failed at this choice.
        """
        finish = delta.finish_reason
        if finish in ("error", "abort"):
            raise EngineError(delta.error or "The engine ended this request before it was done.")
        stopped = False
        if self._stops is not None or delta.logprobs:
            text, stopped = self._push_each(delta)
        else:
            text = self._decoding.push(self._shown(delta))
            self.output_tokens += len(delta.token_ids)
        if finish is not None and not stopped:
            last, stopped = self._cut(self._decoding.flush())
            text += last
            if self._stops is not None:
                text += self._stops.flush()
        if stopped:
            finish = "stop"
        if self._ready:
            text, self._ready = self._ready + text, ""
        if not text and finish is None:
            return None
        self.finished = finish is not None
        spoken, self._spoken = self._spoken, []
        return Piece(
            self.index, text, finish, self.output_tokens, delta.cached_tokens, spoken, delta.timing
        )

    def _push_each(self, delta: Delta) -> tuple[str, bool]:
        """Decode token by token, so that it is known which one completes a stop string."""
        shown = len(self._shown(delta))
        texts = []
        for place, token in enumerate(delta.token_ids):
            if delta.logprobs:
                self._spoken.append(Spoken(token, delta.logprobs[place], self._decoded))
            text, stopped = self._decode([token] if place < shown else []), False
            self.output_tokens += 1
            if self.output_tokens > self._min_tokens:
                text, stopped = self._cut(text)
            texts.append(text)
            if stopped:
                return "".join(texts), True
        return "".join(texts), False

    def _cut(self, text: str) -> tuple[str, bool]:
        return (text, False) if self._stops is None else self._stops.push(text)

    def _decode(self, tokens: Sequence[int]) -> str:
        text = self._decoding.push(tokens)
        self._decoded += len(text)
        return text

    def _shown(self, delta: Delta) -> list[int]:
        """The tokens that are text: the one that stopped the choice may not be."""
        tokens = delta.token_ids
        # A grammar that is complete stops a choice too, with a token like any other.
        if delta.finish_reason == "stop" and tokens and tokens[-1] in self._hidden:
            return tokens[:-1]
        return tokens


def merged(pieces: Sequence[Piece]) -> Piece:
    """Return one piece that says what all `pieces` of one choice say."""
    text = "".join(piece.text for piece in pieces)
    spoken = [token for piece in pieces for token in piece.spoken]
    return replace(pieces[-1], text=text, spoken=spoken)


def mean_logprob(piece: Piece) -> float:
    """Mean log probability of a whole choice's tokens, the one that ended it among them."""
    own = piece.spoken[-piece.output_tokens :]  # before them, with echo, are the prompt's
    logprobs = [token.logprob.logprob for token in own if token.logprob is not None]
    return sum(logprobs) / max(1, len(logprobs))
