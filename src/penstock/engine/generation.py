"""A sequence as the engine sees it: its tokens, and what its request asks of each of them."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from penstock.engine.beam import BeamSearch
from penstock.engine.grammar import Matcher
from penstock.engine.request import GenerateRequest, TokenLogprob
from penstock.engine.sampling import choice_seed
from penstock.engine.shaping import Shaping


@dataclass(slots=True)
class Generation:
    """A sequence's tokens, which the scheduler counts and never sees.

    The fields after `guess` are None for what the request does not ask for.
    """

    request: GenerateRequest
    index: int  # which choice
    tokens: list[int]  # the prompt, then what was sampled
    seed: int
    enders: frozenset[int]  # tokens that end it
    told: int  # of its tokens, how many the caller knows
    row: int = -1  # its row in the runner's tables while it runs
    guess: list[int] = field(default_factory=list)  # of its next tokens, for this step
    shaping: Shaping | None = None
    search: BeamSearch | None = None
    guide: Future[Matcher] | None = None  # where it is in its grammar, once that is compiled
    logprobs: list[TokenLogprob] | None = None  # of the newest tokens, not told yet
    prompt_logprobs: list[TokenLogprob | None] | None = None
    started: float = 0.0  # monotonic, seconds: its first chunk was planned
    first: float = 0.0  # its first token was sampled
    over: bool = False  # it ends here, though its newest token does not say so
    failure: str | None = None  # why it alone cannot go on

    @property
    def plain(self) -> bool:
        """Whether it asks for nothing but a draw from its logits."""
        return (
            self.shaping is None
            and self.search is None
            and self.guide is None
            and self.logprobs is None
        )


def generations(
    request: GenerateRequest, seed: int, enders: frozenset[int], limit: int
) -> list[Generation]:
    """One for each sequence of a request: its choices, or its beams.

    `enders` are the tokens that end a sequence, `limit` is its longest length in
    tokens, prompt included.
    """
    params = request.params
    search = BeamSearch(params.beam, request.prompt, limit, enders) if params.beam else None
    return [
        Generation(
            request,
            index,
            list(request.prompt),
            choice_seed(seed, index),
            enders,
            told=len(request.prompt),
            shaping=Shaping(params, request.prompt, enders) if Shaping.wanted(params) else None,
            search=search,
            logprobs=None if params.logprobs is None else [],
            prompt_logprobs=[None] if index == 0 and params.prompt_logprobs is not None else None,
        )
        for index in range(search.width if search else params.n)
    ]
