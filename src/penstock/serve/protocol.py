"""The bodies of `/v1/completions` and `/v1/chat/completions`.

No parameter is accepted and ignored. What we serve is a field below. What
OpenAI or its imitators define and we do not serve is in `NOT_SERVED`, with
the values that ask for nothing: those pass, any other is refused by name.
Everything else is unknown and refused by name.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from penstock.engine.request import SamplingParams

# Parameter -> the values that change nothing. None (JSON null) always may stand.
NOT_SERVED: dict[str, tuple[JsonValue, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True,),
    "prediction": (),
    "presence_penalty": (0,),
    "priority": (0,),
    "reasoning_effort": (),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (0,),
    "web_search_options": (),
}


def _checked(text: str) -> str:
    # JSON can spell half a surrogate pair (\ud800 alone); UTF-8 and tokenizers cannot.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = "Input should be valid Unicode; character {at} is half a surrogate pair"
        raise PydanticCustomError("unicode", message, {"at": error.start}) from error
    return text


# A bound for every count, so that none overflows on its way to the engine.
_MAX_COUNT = 2**31 - 1
_Count = Annotated[int, Field(ge=1, le=_MAX_COUNT)]
_Text = Annotated[str, AfterValidator(_checked)]
# Looking for the beginning of a stop string takes time with the square of its length.
_Stop = Annotated[str, Field(max_length=1000), AfterValidator(_checked)]
_TokenId = Annotated[int, Field(ge=0, le=_MAX_COUNT)]


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = Field(default=False, description="one last chunk with the usage")
    continuous_usage_stats: bool = Field(
        default=False,
        description="usage so far on every chunk, so that nobody counts chunks as tokens",
    )


class GenerateBody(BaseModel):
    """The parameters both APIs share."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = Field(None, description="the model this server serves, or absent")
    max_tokens: _Count | None = None
    temperature: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    top_k: int = Field(0, ge=-1, le=_MAX_COUNT, description="0 or -1: all tokens")
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: _Stop | list[_Stop] = Field([], description="at most 4 strings, none empty")
    stop_token_ids: list[_TokenId] = Field([], max_length=64)
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str | None = Field(None, description="yours alone: nothing here depends on it")

    @model_validator(mode="before")
    @classmethod
    def _keep_what_is_served(cls, body: Any) -> Any:
        """Drop nulls (JSON's way to leave out) and neutral values of `NOT_SERVED`."""
        if not isinstance(body, dict):
            return body
        served = {}
        for name, value in body.items():
            if name in cls.model_fields or name not in NOT_SERVED:
                if value is not None:
                    served[name] = value
            elif value is not None and not _is_one_of(value, NOT_SERVED[name]):
                raise NotServed(name)
        return served

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if len(self.stop_strings) > 4 or not all(self.stop_strings):
            raise BadParameter("stop", "stop takes at most four strings, and none may be empty.")
        if self.stream_options != StreamOptions() and not self.stream:
            raise BadParameter("stream_options", "stream_options needs stream=true.")
        return self

    @property
    def stop_strings(self) -> list[str]:
        """`stop` as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def _sampling(self, max_tokens: int | None) -> SamplingParams:
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_k=max(self.top_k, 0),
            top_p=self.top_p,
            seed=self.seed,
            stop_token_ids=tuple(self.stop_token_ids),
            ignore_eos=self.ignore_eos,
        )


class CompletionBody(GenerateBody):
    """`POST /v1/completions`."""

    prompt: _Text | list[_TokenId] | list[_Text] | list[list[_TokenId]] = Field(
        description="text or token ids; a list of several prompts is not served"
    )

    def params(self) -> SamplingParams:
        """Sampling parameters; without a limit 16 tokens, OpenAI's default for this API."""
        return self._sampling(self.max_tokens or 16)

    def single_prompt(self) -> str | list[int]:
        """Return the one prompt, or raise `BadParameter`."""
        prompt = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise BadParameter(
                    "prompt",
                    f"prompt holds {len(prompt)} prompts; this server takes one a request. "
                    "Send one request for each: they run side by side.",
                )
            prompt = prompt[0]
        if not prompt:
            raise BadParameter("prompt", "prompt is empty; give text or token ids.")
        return cast("str | list[int]", prompt)


class TextPart(BaseModel):
    """A part of a message's content. Only text is served."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: _Text


class ChatMessage(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: _Text | list[TextPart]

    def as_dict(self) -> dict[str, str]:
        """Return it as chat templates expect it, with the parts joined."""
        if isinstance(self.content, str):
            return {"role": self.role, "content": self.content}
        return {"role": self.role, "content": "".join(part.text for part in self.content)}


class ChatBody(GenerateBody):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: _Count | None = Field(None, description="as max_tokens, its new name")

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise BadParameter(
                "max_completion_tokens",
                f"max_tokens={self.max_tokens} and max_completion_tokens="
                f"{self.max_completion_tokens} differ; give one of them.",
            )
        return self

    def params(self) -> SamplingParams:
        """Sampling parameters; without a limit, as many tokens as the context holds."""
        return self._sampling(self.max_completion_tokens or self.max_tokens)


# Every name that is a parameter, or a part of one.
FIELDS = frozenset().union(
    *(m.model_fields for m in (CompletionBody, ChatBody, ChatMessage, TextPart, StreamOptions))
)


class BadParameter(Exception):
    """A parameter that types alone cannot refuse (HTTP 400)."""

    code = "invalid_value"

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class NotServed(BadParameter):
    """A parameter we know and do not serve, with a value that asks for something."""

    code = "unsupported_parameter"

    def __init__(self, param: str) -> None:
        neutral = " or ".join(json.dumps(value) for value in NOT_SERVED[param])
        super().__init__(
            param,
            f"{param} is not served by this server. Leave it out"
            + (f" or set it to {neutral}." if neutral else "."),
        )


def _is_one_of(value: JsonValue, neutral: tuple[JsonValue, ...]) -> bool:
    # False == 0 in Python; as JSON they are not the same.
    return any(
        value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral
    )
