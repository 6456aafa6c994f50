"""What goes into the engine and what comes out. Imports no tensor library."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "abort", "error"]


class BadValue(ValueError):
    """A value that a field of `SamplingParams`, or of its `Beam`, cannot have; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Grammar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the output must match, from its first character to its last.

    `text` is a JSON schema as JSON, a regular expression, or a grammar in Lark's
    syntax. Where the grammar is complete the only token left is the end of the
    sequence.
    """

    kind: Literal["json_schema", "regex", "lark"]
    text: str


class Beam(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Search with `width` beams; a finished one scores log p / length ** length_penalty.

    `early_stopping` as in transformers: True ends once `width` beams have finished,
    False when by a heuristic no better one can come, "never" when none can.
    """

    width: int
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to choose each next token, and when to stop.

    `temperature=0` is greedy. `top_k=0`, `top_p=1.0` and `min_p=0.0` switch those
    filters off. `n` sequences are sampled from one prompt, each a *choice*;
    `seed=None` draws one at admission, and a draw depends on nothing but (seed,
    choice, position). `max_tokens=None` means "as many as the model's context
    holds". The model's own end-of-sequence ids stop a sequence unless
    `ignore_eos`; `stop_token_ids` are added to them; neither is chosen before
    `min_tokens`. `repetition_penalty` divides (Keskar et al. 2019) the logits of
    tokens in prompt and output; `presence_penalty` and `frequency_penalty` are
    subtracted, once and per occurrence, from those in the output; `logit_bias` is
    added. `logprobs=k` reports the model's own log probability, before all of
    these, of each token and of the k likeliest; `prompt_logprobs=k` the same of
    the prompt. With `beam` the `n` best of its beams are returned, and nothing
    is sampled.

    Raises `BadValue` when a value is out of range, or does not go with another.
    """

    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None
    beam: Beam | None = None

    def __post_init__(self) -> None:
        for name, low, high in RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # NaN is in no range
                raise BadValue(name, f"{name}={value} must lie in [{low:g}, {high:g}].")
        if not 0.0 < self.top_p <= 1.0:
            raise BadValue("top_p", f"top_p={self.top_p} must lie in (0, 1]; 1 is off.")
        if self.repetition_penalty <= 0:
            raise BadValue(
                "repetition_penalty",
                f"repetition_penalty={self.repetition_penalty} must be above 0.",
            )
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise BadValue("seed", f"seed={self.seed} must fit in 64 bits.")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise BadValue(
                "min_tokens", f"min_tokens={self.min_tokens} exceeds max_tokens={self.max_tokens}."
            )
        if not all(-100 <= bias <= 100 for bias in self.logit_bias.values()):
            raise BadValue("logit_bias", "logit_bias: each bias must lie in [-100, 100].")
        if self.grammar is not None and (self.ignore_eos or self.min_tokens):
            name = "ignore_eos" if self.ignore_eos else "min_tokens"
            raise BadValue(
                name, f"{name} cannot be met where a grammar says what may end the output."
            )
        if self.beam is not None:
            self._check_beam(self.beam)

    def _check_beam(self, beam: Beam) -> None:
        if not self.n <= beam.width <= MAX_CHOICES:
            raise BadValue(
                "n", f"beam width={beam.width} must lie between n={self.n} and {MAX_CHOICES}."
            )
        if not -10 <= beam.length_penalty <= 10:
            raise BadValue(
                "length_penalty", f"length_penalty={beam.length_penalty} must lie in [-10, 10]."
            )
        sampled = SamplingParams(
            n=self.n,
            max_tokens=self.max_tokens,
            temperature=self.temperature if self.temperature in (0.0, 1.0) else 1.0,
            seed=self.seed,  # the same seed gives the same text: it always does
            stop_token_ids=self.stop_token_ids,
            ignore_eos=self.ignore_eos,
            beam=None,
        )
        for name in self.__struct_fields__:
            if name != "beam" and getattr(self, name) != getattr(sampled, name):
                raise BadValue(name, f"{name} has no meaning in beam search; leave it out.")


# As many as the default queue takes (`max_waiting`): choices are queued all or none.
MAX_CHOICES = 1024

# Fields of SamplingParams with a closed range. Logits are pushed by at most 100,
# as OpenAI bounds them, so that nothing overflows.
RANGES: tuple[tuple[str, float, float], ...] = (
    ("n", 1, MAX_CHOICES),
    ("max_tokens", 1, math.inf),
    ("min_tokens", 0, math.inf),
    ("temperature", 0, 100),
    ("top_k", 0, math.inf),
    ("min_p", 0, 1),
    ("repetition_penalty", 0, 100),
    ("presence_penalty", -100, 100),
    ("frequency_penalty", -100, 100),
    ("logprobs", 0, 64),
    ("prompt_logprobs", 0, 64),
)


class GenerateRequest(msgspec.Struct, kw_only=True):
    """One prompt, as token ids, with its sampling parameters."""

    id: str
    prompt: list[int]
    params: SamplingParams = SamplingParams()
    priority: int = 0  # lower runs first; batch work takes a positive one


class TokenLogprob(msgspec.Struct, array_like=True):
    """The model's own view of one token: natural logarithms."""

    logprob: float
    rank: int  # 1 for the likeliest
    top: list[tuple[int, float]]  # the likeliest ids, as many as asked, best first


class Timing(msgspec.Struct, array_like=True):
    """Where a finished choice spent its time in the engine, in seconds."""

    queue_s: float  # until its first chunk was planned
    prefill_s: float  # from then to its first token
    decode_s: float  # from its first token to its last
    preemptions: int


class Delta(msgspec.Struct, kw_only=True):
    """What one step added to one choice of a request.

    Exactly one delta of a choice has `finish_reason` set, and it is its last.
    The token that stopped it (an end-of-sequence or stop id) is in
    `token_ids` and counted, as OpenAI's `usage` counts it.
    """

    request_id: str
    index: int = 0  # of the choice, 0 to n - 1
    token_ids: list[int] = []
    logprobs: list[TokenLogprob] = []  # one for each token, when asked
    # One for each prompt token (none for the first), once, in a delta of choice 0.
    prompt_logprobs: list[TokenLogprob | None] | None = None
    finish_reason: FinishReason | None = None
    error: str | None = None  # set when finish_reason is "error"
    prompt_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens whose K and V were already there
    timing: Timing | None = None  # with the finish_reason
    score: float | None = None  # of a beam, with its finish_reason


class EngineStats(msgspec.Struct, kw_only=True):
    """A snapshot of the engine's state; counters only ever grow."""

    running: int
    waiting: int
    pages_total: int
    pages_free: int
    pages_held: int
    pages_cached: int
    steps: int
    prompt_tokens: int  # of prompts whose first token is out; recomputation does not count
    cached_tokens: int  # of those, found in the prefix cache
    output_tokens: int
    sequence_steps: int = 0  # sums, over all sequences, the steps that gave them tokens
    preemptions: int
    dropped_tokens: int = 0  # whose K and V were given up for a budget
    finished: int
    cancelled: int
    failed: int
    drafts: int = 0  # times that a sequence made guesses in a step
    guessed: list[int] = []  # guesses by position: first, second ...
    guessed_right: list[int] = []  # of those, that came true
    guess_s: float = 0.0  # seconds that guessing took, apart from judging them


class ModelFacts(msgspec.Struct, kw_only=True):
    """What a report needs to know of the model and how it is served."""

    name: str
    architecture: str
    max_model_len: int  # tokens, prompt and output together
    vocab_size: int
    parameters: int
    weight_bytes: int  # bytes of weights read by one step
    flops_per_token: int  # 2 x weights multiplied, attention apart
    head_flops: int  # of those, what prompt tokens skip: past the last attention, or layer n
    attention_flops: int  # per token and token of its context: 4 x layers x query heads x head size
    prompt_attention_flops: int | None = None  # the same of a prompt's token; None: no less
    kv_bytes_per_token: int
    dtype: str
    precision: str  # of the weights, and in words of what is computed with them
    compute: str  # precision of the products
    kv_dtype: str
    device: str
    threads: int
    page_size: int
    pages: int
    eos_token_ids: list[int]
    synthetic: bool = False  # random weights: speed means something, quality nothing
