"""One prompt through every stage of the engine: what it costs, and how its next token is chosen.

Nothing is computed a second way: the prompt runs as requests on an `LLM`, and
the clock is read where the decoder's own parts are called (`watch`).
"""

from __future__ import annotations

import time
from statistics import median
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from penstock.engine.engine import Engine
from penstock.engine.llm import LLM
from penstock.engine.model.tokenizer import Tokenizer
from penstock.engine.options import EngineOptions
from penstock.engine.request import Beam, FinishReason, GenerateRequest, ModelFacts, SamplingParams
from penstock.engine.sampling import gumbel, keys
from penstock.engine.stages import Stage, Step, step
from penstock.engine.watch import Timed, timed_step, watching
from penstock.predict import hardware
from penstock.predict.hardware import Hardware

TOP = 5  # candidates shown

# Warm passes: as many as fit in the time, within these bounds.
WARM_SECONDS = 1.0
FEWEST, MOST = 5, 51

Strategy = Literal["greedy", "top-k", "top-p", "sampling", "beam"]


class Piece(msgspec.Struct, frozen=True):
    """One token: its id, how it reads, and the bytes it adds to the text, in hexadecimal.

    A token whose bytes are no text of their own, a part of a character, reads
    as `<0xE2>` for each byte; a special token, which adds nothing, as its name.
    """

    id: int
    text: str
    bytes: str
    kind: Literal["text", "bytes", "special"]


class Candidate(msgspec.Struct, frozen=True):
    """A token that could come next; `probability` is the model's own, at temperature 1.

    Plain sampling takes the token with the largest `score`, which is
    logit / temperature + `noise` (Gumbel-max; see `sampling`).
    """

    token: Piece
    logit: float
    probability: float
    noise: float
    score: float


class Choice(msgspec.Struct, frozen=True):
    """What one way of choosing makes of the prompt: the next token, and how it goes on.

    It chooses among `kept` tokens, which hold `mass` of the probability at its
    temperature. `probability` of the token and `logprob` of the whole
    continuation (a sum of natural logarithms) are the model's own, at temperature 1.
    """

    strategy: Strategy
    kept: int
    mass: float
    token: Piece
    probability: float
    continuation: list[Piece]  # `token` is its first
    text: str
    logprob: float
    finish_reason: FinishReason


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How each way of choosing is set; `tokens` is how far each goes on.

    Raises `ValueError` naming what is out of range.
    """

    tokens: int = 8
    temperature: float = 1.0
    top_k: int = 40
    top_p: float = 0.9
    beams: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(
                f"temperature={self.temperature} must be above 0: at 0 every choice is the greedy "
                "one, which is shown anyway."
            )
        if self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1.")
        self.params()  # checks the others

    def params(self) -> dict[Strategy, SamplingParams]:
        """What each strategy asks of the engine."""
        sampled = SamplingParams(
            max_tokens=self.tokens, temperature=self.temperature, seed=self.seed, logprobs=0
        )
        return {
            "greedy": _with(sampled, temperature=0.0),
            "top-k": _with(sampled, top_k=self.top_k),
            "top-p": _with(sampled, top_p=self.top_p),
            "sampling": sampled,
            "beam": SamplingParams(max_tokens=self.tokens, beam=Beam(width=self.beams)),
        }


class Explanation(msgspec.Struct, frozen=True):
    """Everything `penstock explain` tells of one prompt."""

    prompt: str
    model: ModelFacts
    hardware: Hardware
    settings: Settings
    tokens: list[Piece]
    candidates: list[Candidate]  # for the next token, likeliest first
    drawn: Candidate  # what plain sampling takes
    choices: list[Choice]
    tokenize: Stage
    steps: list[Step]
    warm_passes: int


def explain(prompt: str, model: str = "embedded", settings: Settings | None = None) -> Explanation:
    """Take `prompt` through the engine on the CPU: once cold, then some times warm.

    Takes seconds, as the machine's own limits are measured too. Raises
    `ValueError` or `FileNotFoundError` for a prompt or a model that cannot be,
    saying what to change.
    """
    settings = settings or Settings()
    _check_text(prompt)
    # The whole prompt in one step, and nothing found in a cache.
    options = EngineOptions(
        max_running=settings.beams, max_step_tokens=1 << 20, prefix_sharing=False
    )
    llm = LLM(model, options)
    about, decoder = llm.engine.facts, llm.engine.decoder
    ids, tokenizing = _tokenize(llm.tokenizer, prompt)
    _check_length(len(ids), settings.tokens, about.max_model_len)
    passes, logits = _passes(llm.engine, ids, settings)
    machine = hardware.measure(about.weight_bytes, (about.compute,))
    candidates, drawn = _candidates(llm.tokenizer, logits, settings, position=len(ids))
    prefills, decodes = zip(*passes, strict=True)
    return Explanation(
        prompt=prompt,
        model=about,
        hardware=machine,
        settings=settings,
        tokens=[piece(llm.tokenizer, id_) for id_ in ids],
        candidates=candidates,
        drawn=drawn,
        choices=_choices(llm, ids, logits, settings),
        tokenize=tokenizing,
        steps=[
            step("prefill", prefills, decoder, about, machine, tokens=len(ids), context=len(ids)),
            step("decode", decodes, decoder, about, machine, tokens=1, context=len(ids) + 1),
        ],
        warm_passes=len(passes) - 1,
    )


def piece(tokenizer: Tokenizer, id_: int) -> Piece:
    """How token `id_` reads."""
    raw = tokenizer.token_bytes(id_)
    if not raw:
        return Piece(id=id_, text=tokenizer.token(id_) or f"<id {id_}>", bytes="", kind="special")
    try:
        return Piece(id=id_, text=raw.decode(), bytes=raw.hex(), kind="text")
    except UnicodeDecodeError:
        text = "".join(f"<0x{byte:02X}>" for byte in raw)
        return Piece(id=id_, text=text, bytes=raw.hex(), kind="bytes")


def _candidates(
    tokenizer: Tokenizer, logits: Tensor, settings: Settings, position: int
) -> tuple[list[Candidate], Candidate]:
    """The likeliest tokens for `position`, and the one that plain sampling takes."""
    probabilities = logits.softmax(-1)
    key = keys(np.array([settings.seed]), np.array([position]))
    noise = gumbel(torch.from_numpy(key)[:, None], len(logits))[0]
    scores = logits / settings.temperature + noise

    def candidate(id_: int) -> Candidate:
        return Candidate(
            token=piece(tokenizer, id_),
            logit=float(logits[id_]),
            probability=float(probabilities[id_]),
            noise=float(noise[id_]),
            score=float(scores[id_]),
        )

    best = logits.topk(min(TOP, len(logits))).indices
    return [candidate(id_) for id_ in best.tolist()], candidate(int(scores.argmax()))


def _choices(llm: LLM, ids: list[int], logits: Tensor, settings: Settings) -> list[Choice]:
    probabilities = logits.softmax(-1)
    choices = []
    for strategy, params in settings.params().items():
        (completion,) = llm.generate([ids], params)  # alone, as the step that was timed
        best = completion.choices[0]
        kept, mass = _kept(logits, params)
        chosen = [piece(llm.tokenizer, id_) for id_ in best.token_ids]
        choices.append(
            Choice(
                strategy=strategy,
                kept=kept,
                mass=mass,
                token=chosen[0],
                probability=float(probabilities[chosen[0].id]),
                continuation=chosen,
                text=best.text,
                # A beam's score is the mean over its tokens.
                logprob=sum(token.logprob for token in best.logprobs)
                if best.score is None
                else best.score * len(chosen),
                finish_reason=best.finish_reason,
            )
        )
    return choices


def _kept(logits: Tensor, params: SamplingParams) -> tuple[int, float]:
    """How many tokens are left to choose among, and what they hold of the probability."""
    if params.temperature == 0:
        return 1, float(logits.softmax(-1).max())
    ordered = (logits / params.temperature).softmax(-1).sort(descending=True).values
    if params.top_k:
        ordered = ordered[: params.top_k]
    if params.top_p < 1:
        ordered = ordered[ordered.cumsum(-1) - ordered < params.top_p]
    return len(ordered), float(ordered.sum())


def _passes(
    engine: Engine, ids: list[int], settings: Settings
) -> tuple[list[tuple[Timed, Timed]], Tensor]:
    """Time the prompt's step and the decode after it, again and again.

    Returns the passes, and the logits [vocab] after the prompt.
    """
    params = _with(settings.params()["sampling"], max_tokens=2, ignore_eos=True, logprobs=None)
    passes: list[tuple[Timed, Timed]] = []
    stop = time.perf_counter() + WARM_SECONDS
    with watching(engine.decoder) as watched:
        while len(passes) <= FEWEST or (len(passes) <= MOST and time.perf_counter() < stop):
            engine.submit(GenerateRequest(id=f"pass-{len(passes)}", prompt=ids, params=params))
            prefill = timed_step(engine, watched)
            logits = watched.logits[-1]
            passes.append((prefill, timed_step(engine, watched)))
    return passes, logits


def _tokenize(tokenizer: Tokenizer, prompt: str) -> tuple[list[int], Stage]:
    times = []
    for _ in range(1 + FEWEST):
        started = time.perf_counter()
        ids = tokenizer.encode(prompt)
        times.append(time.perf_counter() - started)
    return ids, Stage(name="tokenize", first_s=times[0], warm_s=median(times[1:]))


def _with(params: SamplingParams, **changes: object) -> SamplingParams:
    return msgspec.structs.replace(params, **changes)


def _check_text(prompt: str) -> None:
    if not prompt:
        raise ValueError("the prompt is empty: give some text.")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # bytes of the command line that are no UTF-8
        raise ValueError(
            f"the prompt is not valid UTF-8 at character {error.start}: write it in UTF-8."
        ) from error


def _check_length(prompt: int, tokens: int, longest: int) -> None:
    if not prompt:
        raise ValueError("this model's tokenizer makes no token of the prompt: write another.")
    room = longest - prompt
    if room < 2:  # what a timed pass adds
        raise ValueError(
            f"the prompt has {prompt:,} tokens; this model holds {longest:,}, output included. "
            f"Shorten the prompt to {longest - 2:,} or less."
        )
    if tokens > room:
        raise ValueError(
            f"tokens={tokens:,} with a {prompt:,}-token prompt needs {prompt + tokens:,}; this "
            f"model holds {longest:,}. Lower tokens to {room:,} or shorten the prompt."
        )
