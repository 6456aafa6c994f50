"""The answers of the two APIs, as OpenAI shapes them.

msgspec structs, because one of them is encoded for every request at every
step.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from penstock.engine.request import Timing
from penstock.serve.logprobs import ChatLogprobs, CompletionLogprobs, PromptLogprobs


class PromptTokens(msgspec.Struct):
    """How much of the prompts was already computed, in tokens, and how long they were.

    `original_tokens` is there where a prompt was shortened before the model read it.
    """

    cached_tokens: int
    original_tokens: int | UnsetType = UNSET


class Usage(msgspec.Struct):
    """Tokens of a request, all that was sampled for it; the tokens that ended it count."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


class Timings(msgspec.Struct):
    """Where one choice spent its time in the engine, in seconds."""

    queue_s: float
    prefill_s: float
    decode_s: float
    preemptions: int
    cached_tokens: int

    @classmethod
    def of(cls, timing: Timing, cached_tokens: int) -> Timings:
        """Return what the engine said of a choice."""
        return cls(
            timing.queue_s, timing.prefill_s, timing.decode_s, timing.preemptions, cached_tokens
        )


class CalledFunction(msgspec.Struct, omit_defaults=True):
    """What a call calls; in a stream the name comes first, then the arguments in parts."""

    arguments: str
    name: str | None = None


class ToolCall(msgspec.Struct, omit_defaults=True):
    """A call by the model; `index` is given in a stream, where a call comes in parts."""

    function: CalledFunction
    id: str | None = None
    type: str | None = None
    index: int | UnsetType = UNSET


class Message(msgspec.Struct):
    """A chat answer, or in a stream what is new of it."""

    role: str | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class TextChoice(msgspec.Struct):
    """One choice of a completion, or what is new of it."""

    text: str
    finish_reason: str | None
    index: int = 0
    logprobs: CompletionLogprobs | None = None
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    timings: Timings | UnsetType | None = UNSET


class MessageChoice(msgspec.Struct):
    """One choice of a chat completion."""

    message: Message
    finish_reason: str | None
    index: int = 0
    logprobs: ChatLogprobs | None = None
    timings: Timings | UnsetType | None = UNSET


class DeltaChoice(msgspec.Struct):
    """What is new of one choice of a chat completion."""

    delta: Message
    finish_reason: str | None
    index: int = 0
    logprobs: ChatLogprobs | None = None
    timings: Timings | UnsetType | None = UNSET


Choice = TextChoice | MessageChoice | DeltaChoice
C = TypeVar("C", bound=Choice)


class Reply(msgspec.Struct, Generic[C]):
    """A whole answer, or one chunk of a stream."""

    id: str
    object: str
    created: int
    model: str
    choices: list[C]
    usage: Usage | UnsetType | None = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class Tokenized(msgspec.Struct):
    """Of `/tokenize`."""

    count: int
    max_model_len: int  # tokens
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(msgspec.Struct):
    """Of `/detokenize`."""

    prompt: str


class Version(msgspec.Struct):
    """Of `/version`."""

    version: str
