"""All choices of one request, of one prompt or of several, as they come from the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing

from penstock.engine.model.tokenizer import Tokenizer
from penstock.engine.request import Delta, TokenLogprob
from penstock.serve.client import Generation
from penstock.serve.pieces import ChoiceText, Piece
from penstock.serve.protocol import CompletionBody, GenerateBody


class Choices:
    """Turns what the engine sends into pieces, and counts tokens.

    Choice k of prompt p has the index p * (choices of a prompt) + k.
    """

    def __init__(
        self,
        body: GenerateBody,
        prompts: Sequence[list[int]],
        tokenizer: Tokenizer,
        *,
        continues: bool,
        keep: Collection[str],
    ) -> None:
        self._width = body.sampled if not body.use_beam_search else body.n
        self._prompts = prompts
        self._cached = [0] * len(prompts)
        self._wants_timing = body.include_timings
        self._echoes = isinstance(body, CompletionBody) and body.echo
        self._only_echoes = self._echoes and body.max_tokens == 0
        # Deltas of prompts whose echo is to show log probabilities, until those have come:
        # with choice 0, which may be behind the others.
        self._echo_waits = self._echoes and body.shown_logprobs is not None
        self._early: dict[int, list[Delta]] = (
            {place: [] for place in range(len(prompts))} if self._echo_waits else {}
        )
        self._ended: dict[int, Piece] = {}  # by a stop string; the engine is to tell its times
        self.open = self._width * len(prompts)
        self.prompt_logprobs: list[Sequence[TokenLogprob | None]] = [()] * len(prompts)
        self._texts = [
            ChoiceText(
                index,
                tokenizer.stream(continues=continues, keep=keep),
                body.stop_strings,
                include_stop=body.include_stop_str_in_output,
                min_tokens=body.min_tokens,
                hidden=() if body.include_stop_str_in_output else body.stop_token_ids,
            )
            for index in range(self.open)
        ]
        if self._echoes and not self._echo_waits:
            for place, prompt in enumerate(prompts):
                self._begin(place, prompt, None)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(map(len, self._prompts))

    @property
    def cached_tokens(self) -> int:
        """Of those, tokens that were already computed."""
        return sum(self._cached)

    @property
    def output_tokens(self) -> int:
        """Tokens sampled so far, the ones that ended a choice among them."""
        return 0 if self._only_echoes else sum(text.output_tokens for text in self._texts)

    async def pieces(self, generations: Sequence[Generation]) -> AsyncGenerator[Piece]:
        """Yield what may be shown, of each choice in order; `open` choices are yet to end.

        Leave `generations` afterwards: after a stop string the engine may go on.
        Raises `EngineError` if the engine failed at a choice.
        """
        async with aclosing(_together(generations)) as deltas:
            async for place, delta in deltas:
                for ready in self._in_order(delta, place) if self._early else (delta,):
                    piece = self._take(ready, place, generations[place])
                    if piece is None:
                        continue
                    self.open -= piece.finish_reason is not None
                    yield piece
                    if not self.open:
                        return

    def _in_order(self, delta: Delta, place: int) -> Sequence[Delta]:
        """What can be taken now: an echo waits for its prompt's log probabilities."""
        early = self._early.get(place)
        if early is None or delta.finish_reason in ("error", "abort"):
            return (delta,)
        if delta.prompt_logprobs is None:
            early.append(delta)
            return ()
        del self._early[place]
        return (delta, *early)

    def _take(self, delta: Delta, place: int, generation: Generation) -> Piece | None:
        if delta.index == 0:
            self._cached[place] = delta.cached_tokens
        if delta.prompt_logprobs is not None:
            self._take_prompt(place, delta.prompt_logprobs)
        text = self._texts[place * self._width + delta.index]
        if text.finished:
            return self._stopped_here(text.index, delta)
        if self._only_echoes:
            delta.token_ids, delta.logprobs, delta.finish_reason = [], [], "length"
        piece = text.push(delta)
        if piece is None or piece.finish_reason is None or delta.finish_reason is not None:
            return piece
        # A stop string ended it, of which the engine knows nothing.
        if self._wants_timing:
            self._ended[text.index] = piece
            piece = None
        if self._wants_timing or self.open > 1:
            generation.abort(delta.index)
        return piece

    def _stopped_here(self, index: int, delta: Delta) -> Piece | None:
        """The piece that waited for the engine's last word on its choice, once that has come."""
        if delta.finish_reason is None:
            return None
        piece = self._ended.pop(index, None)
        if piece is not None:
            piece.timing = delta.timing
        return piece

    def _take_prompt(self, place: int, logprobs: Sequence[TokenLogprob | None]) -> None:
        self.prompt_logprobs[place] = logprobs
        if self._echo_waits:
            self._begin(place, self._prompts[place], logprobs)

    def _begin(
        self, place: int, prompt: Sequence[int], logprobs: Sequence[TokenLogprob | None] | None
    ) -> None:
        for text in self._texts[place * self._width :][: self._width]:
            text.begin_with(prompt, logprobs)


async def _together(generations: Sequence[Generation]) -> AsyncGenerator[tuple[int, Delta]]:
    """Yield the deltas of all as they come, each with the place of its generation."""
    if len(generations) == 1:
        async for delta in generations[0]:
            yield 0, delta
        return
    coming = {asyncio.ensure_future(anext(it)): place for place, it in enumerate(generations)}
    try:
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                place = coming.pop(task)
                try:
                    delta = task.result()
                except StopAsyncIteration:
                    continue
                coming[asyncio.ensure_future(anext(generations[place]))] = place
                yield place, delta
    finally:
        for task in coming:
            task.cancel()
