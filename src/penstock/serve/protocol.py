"""The bodies of `/v1/completions` and `/v1/chat/completions`.

No parameter is accepted and ignored. What we serve is a field below, with its
description for docs/api.md. What OpenAI or its imitators define and we do not
serve is in `fields.NOT_SERVED`; all else is unknown. Both are refused by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal, Self, cast

from pydantic import AfterValidator, Field, JsonValue, model_validator

from penstock.engine.request import MAX_CHOICES, BadValue, Beam, Grammar, SamplingParams
from penstock.serve.conversation import (
    CalledFunction,
    ChosenFunction,
    Function,
    Message,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
)
from penstock.serve.fields import MAX_COUNT, BadParameter, Body, Count, Part, Text, TokenId, checked
from penstock.serve.structured import JsonSchema, ResponseFormat, StructuredOutputs
from penstock.serve.tools import Choice

MAX_PROMPTS = 64
MAX_LOGPROBS = 64

_Limit = Annotated[int, Field(ge=1, le=MAX_COUNT)]
_Logprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]
_Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
_Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
_TokenIdText = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]


_Prompt = Annotated[str, Field(min_length=1), AfterValidator(checked)]
# Looking for the beginning of a stop string takes time with the square of its length.
_Stop = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(checked)]


class StreamOptions(Part):
    """What a stream carries besides text."""

    include_usage: bool = Field(default=False, description="one last chunk with the usage")
    continuous_usage_stats: bool = Field(
        default=False,
        description="usage so far on every chunk, so that nobody counts chunks as tokens",
    )


class GenerateBody(Body, ABC):
    """The parameters both APIs share."""

    model: Text | None = Field(None, description="the model this server serves, or absent")
    max_tokens: _Limit | None = None
    min_tokens: Count = Field(
        0, description="so many tokens before any end: end of sequence, stop ids, stop strings"
    )
    n: int = Field(1, ge=1, le=MAX_CHOICES, description="choices for each prompt")
    temperature: float = Field(
        1.0, ge=0, le=100, allow_inf_nan=False, description="0 takes the likeliest token"
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="sample from the fewest tokens that together have this probability",
    )
    top_k: int = Field(0, ge=-1, le=MAX_COUNT, description="sample from so many; 0, -1: from all")
    min_p: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="sample from tokens at least this times as likely as the likeliest",
    )
    repetition_penalty: float = Field(
        1.0,
        gt=0,
        le=100,
        allow_inf_nan=False,
        description="above 1 makes tokens of the prompt and the output less likely",
    )
    presence_penalty: _Penalty = Field(
        0.0, description="subtracted from the logits of tokens in the output"
    )
    frequency_penalty: _Penalty = Field(
        0.0, description="the same, for each time they occurred in the output"
    )
    logit_bias: dict[_TokenIdText, _Bias] = Field(
        {}, max_length=1024, description="token id, as a string, to what is added to its logit"
    )
    seed: int | None = Field(
        None,
        ge=-(2**63),
        le=2**63 - 1,
        description="the same seed samples the same text, whatever else runs",
    )
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] = Field(
        [], description="ends before the first of these strings, at most four"
    )
    include_stop_str_in_output: bool = Field(
        False, description="show the stop string, or the text of the stop token"
    )
    stop_token_ids: list[TokenId] = Field([], max_length=64, description="end with one of these")
    ignore_eos: bool = Field(False, description="go on after the end of the sequence")
    prompt_logprobs: _Logprobs | None = Field(
        None, description="log probability of each prompt token and so many others; not streamed"
    )
    use_beam_search: bool = Field(
        False, description="search with best_of or n beams and return the n best; nothing is drawn"
    )
    length_penalty: float = Field(
        1.0,
        ge=-10,
        le=10,
        allow_inf_nan=False,
        description="of beam search: a beam scores log p / length ** length_penalty",
    )
    early_stopping: bool | Literal["never"] = Field(
        False, description="of beam search: when to end, as transformers defines it"
    )
    response_format: ResponseFormat = Field(
        ResponseFormat(type="text"), description="text, any JSON object, or JSON of a schema"
    )
    structured_outputs: StructuredOutputs | None = Field(
        None, description="exactly one of json, regex, choice, grammar (Lark's syntax)"
    )
    priority: int = Field(
        0, ge=-MAX_COUNT, le=MAX_COUNT, description="lower runs first: 0 live, positive for batches"
    )
    deadline_s: float | None = Field(
        None,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="seconds for the whole request, which then fails with deadline_exceeded",
    )
    compress_prompt: bool | Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        None,
        description="with --compress-prompts: the share of the prompt to keep; true: the "
        "server's; false: all of it; absent: the server's, of long prompts",
    )
    include_timings: bool = Field(
        False, description="adds `timings` to each choice: seconds in the queue, in prefill, ..."
    )
    stream: bool = Field(False, description="server-sent events as the text comes")
    stream_options: StreamOptions = Field(StreamOptions(), description="for streams only")
    user: Text | None = Field(None, description="yours alone: nothing here depends on it")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.stream_options != StreamOptions() and not self.stream:
            raise BadParameter("stream_options", "stream_options needs stream=true.")
        if self.stream and self.prompt_logprobs is not None:
            raise BadParameter(
                "prompt_logprobs", "prompt_logprobs do not come in a stream; leave stream out."
            )
        if self.structured_outputs is not None and self.response_format.type != "text":
            raise BadParameter(
                "structured_outputs",
                "structured_outputs and response_format both say what the output must match; "
                "give one of them.",
            )
        self._check_beams()
        return self

    def _check_beams(self) -> None:
        if not self.use_beam_search:
            for name in ("length_penalty", "early_stopping"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise BadParameter(name, f"{name} needs use_beam_search=true.")
            return
        if self.temperature not in (0, 1):
            raise BadParameter(
                "temperature",
                f"temperature={self.temperature:g} has no meaning in beam search, which draws "
                "nothing; leave it out.",
            )
        if self.stop:
            raise BadParameter("stop", "stop strings do not end a beam; use stop_token_ids.")

    @property
    def stop_strings(self) -> list[str]:
        """`stop` as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def sampled(self) -> int:
        """How many choices the engine samples of each prompt; at least `n`."""
        return self.n

    @property
    @abstractmethod
    def shown_logprobs(self) -> int | None:
        """How many likeliest tokens are shown beside each token; None for no log probabilities."""

    def grammar(self) -> Grammar | None:
        """Return what the output must match, or None for any text."""
        if self.structured_outputs is not None:
            return self.structured_outputs.grammar()
        return self.response_format.grammar()

    def params(self, grammar: Grammar | None) -> SamplingParams:
        """Return the sampling parameters; `grammar` is what the output must match.

        Raises `BadParameter` for values that do not go together.
        """
        try:
            return self._params(grammar)
        except BadValue as error:
            raise BadParameter(error.field, str(error)) from error

    def _params(self, grammar: Grammar | None) -> SamplingParams:
        beam = None
        if self.use_beam_search:
            beam = Beam(
                width=self.sampled,
                length_penalty=self.length_penalty,
                early_stopping=self.early_stopping,
            )
        return SamplingParams(
            n=self.n if beam else self.sampled,
            max_tokens=self._token_limit(),
            min_tokens=self.min_tokens,
            temperature=self.temperature,
            top_k=max(self.top_k, 0),
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias={int(token): bias for token, bias in self.logit_bias.items()},
            seed=self.seed,
            stop_token_ids=tuple(self.stop_token_ids),
            ignore_eos=self.ignore_eos,
            logprobs=self._asked_logprobs(),
            prompt_logprobs=self._asked_prompt_logprobs(),
            grammar=grammar,
            beam=beam,
        )

    def _token_limit(self) -> int | None:
        return self.max_tokens

    def _asked_logprobs(self) -> int | None:
        return self.shown_logprobs

    def _asked_prompt_logprobs(self) -> int | None:
        return self.prompt_logprobs


class CompletionBody(GenerateBody):
    """`POST /v1/completions`."""

    prompt: (
        _Prompt
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[_Prompt], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1)]],
            Field(min_length=1, max_length=MAX_PROMPTS),
        ]
    ) = Field(description=f"text, token ids, or a list of up to {MAX_PROMPTS} of either")
    max_tokens: Count = Field(
        16, description="tokens of the output; 0, with echo, only looks at the prompt"
    )
    best_of: int | None = Field(
        None,
        ge=1,
        le=MAX_CHOICES,
        description="sample so many and return the n of highest mean log probability; not streamed",
    )
    echo: bool = Field(False, description="the text begins with the prompt, as the model read it")
    logprobs: _Logprobs | None = Field(
        None, description="log probability of each token, and of so many of the likeliest"
    )

    @model_validator(mode="after")
    def _check_completion(self) -> Self:
        choices = len(self.prompts) * self.sampled
        if choices > MAX_CHOICES:
            raise BadParameter(
                "n", f"n times the prompts makes {choices} choices; {MAX_CHOICES} is the most."
            )
        if self.best_of is not None and self.best_of < self.n:
            raise BadParameter("best_of", f"best_of={self.best_of} is less than n={self.n}.")
        if self.stream and self.sampled > self.n:
            raise BadParameter(
                "best_of", "best_of above n cannot be streamed: the best is known at the end."
            )
        if not self.max_tokens and not self.echo:
            raise BadParameter("max_tokens", "max_tokens=0 has a meaning with echo=true only.")
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, each as text or as token ids."""
        prompt = self.prompt
        if isinstance(prompt, str) or isinstance(prompt[0], int):
            return cast("list[str] | list[list[int]]", [prompt])
        return prompt

    @property
    def sampled(self) -> int:
        """See `GenerateBody`."""
        return self.best_of or self.n

    @property
    def shown_logprobs(self) -> int | None:
        """See `GenerateBody`."""
        return self.logprobs

    def _token_limit(self) -> int:
        return self.max_tokens or 1  # the engine always samples; `echo` then leaves it out

    def _asked_logprobs(self) -> int | None:
        if self.sampled > self.n and not self.use_beam_search:
            return self.logprobs or 0  # to tell which are best
        return self.logprobs

    def _asked_prompt_logprobs(self) -> int | None:
        asked = [self.prompt_logprobs, self.logprobs if self.echo else None]
        return max((count for count in asked if count is not None), default=None)


class ChatBody(GenerateBody):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, description="the conversation so far; text only")
    max_tokens: _Limit | None = Field(
        None, description="tokens of the output; absent: what the context holds"
    )
    max_completion_tokens: _Limit | None = Field(None, description="as max_tokens, its new name")
    logprobs: bool = Field(False, description="log probability of each token")
    top_logprobs: _Logprobs = Field(0, description="with logprobs: and of so many of the likeliest")
    tools: list[Tool] = Field([], max_length=128, description="functions that the model may call")
    tool_choice: Literal["none", "auto", "required"] | ToolChoice = Field(
        "auto", description="whether to call one; required and a named one force the output's form"
    )
    parallel_tool_calls: bool = Field(True, description="false: at most one call")
    chat_template_kwargs: dict[Text, JsonValue] = Field(
        {}, description="variables of the chat template, such as enable_thinking"
    )

    @model_validator(mode="after")
    def _check_chat(self) -> Self:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise BadParameter(
                "max_completion_tokens",
                f"max_tokens={self.max_tokens} and max_completion_tokens="
                f"{self.max_completion_tokens} differ; give one of them.",
            )
        if self.top_logprobs and not self.logprobs:
            raise BadParameter("top_logprobs", "top_logprobs needs logprobs=true.")
        for name in ("messages", "tools", "add_generation_prompt"):
            if name in self.chat_template_kwargs:
                raise BadParameter("chat_template_kwargs", f"{name} is no variable to be set.")
        if self.tools:
            self._check_tools()
        elif self.tool_choice not in ("auto", "none"):
            raise BadParameter("tool_choice", "tool_choice needs tools.")
        return self

    def _check_tools(self) -> None:
        names = [tool.function.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise BadParameter("tools", "tools: two functions have the same name.")
        if isinstance(self.tool_choice, ToolChoice) and (
            (name := self.tool_choice.function.name) not in names
        ):
            raise BadParameter("tool_choice", f"tool_choice: {name} is none of the tools.")
        if self.offered_tools and self.grammar() is not None:
            raise BadParameter(
                "tool_choice",
                "a call matches neither response_format nor structured_outputs; leave them out, "
                "or set tool_choice to none.",
            )

    @property
    def shapes_calls(self) -> bool:
        """Whether calls must have a form, or there must be one."""
        strict = any(tool.function.strict for tool in self.tools)
        return self.tool_choice != "auto" or strict or not self.parallel_tool_calls

    @property
    def choice(self) -> Choice:
        """Of the tools offered, which may or must be called."""
        if isinstance(self.tool_choice, ToolChoice):
            return self.tool_choice.model_dump()
        return "required" if self.tool_choice == "required" else "auto"

    @property
    def offered_tools(self) -> list[Tool]:
        """The tools that the model is told of."""
        return [] if self.tool_choice == "none" else self.tools

    @property
    def shown_logprobs(self) -> int | None:
        """See `GenerateBody`."""
        return self.top_logprobs if self.logprobs else None

    def _token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class TokenizeBody(Body):
    """`POST /tokenize`."""

    model: Text | None = Field(None, description="the model this server serves, or absent")
    prompt: Text | None = Field(None, description="text; or give messages")
    messages: list[Message] | None = Field(None, min_length=1, description="a conversation")
    tools: list[Tool] = Field([], max_length=128, description="with messages")
    add_special_tokens: bool = Field(True, description="those that this model begins with")
    return_token_strs: bool = Field(False, description="adds what each token says")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise BadParameter("prompt", "Give either prompt or messages.")
        if self.messages is not None and not self.add_special_tokens:
            raise BadParameter(
                "add_special_tokens", "add_special_tokens: the chat template decides for messages."
            )
        if self.tools and self.messages is None:
            raise BadParameter("tools", "tools go with messages.")
        return self


class DetokenizeBody(Body):
    """`POST /detokenize`."""

    model: Text | None = Field(None, description="the model this server serves, or absent")
    tokens: list[TokenId] = Field(description="token ids")


# Every name that is a parameter, or a part of one.
FIELDS = frozenset(
    field.alias or name
    for part in (
        CompletionBody,
        ChatBody,
        TokenizeBody,
        DetokenizeBody,
        StreamOptions,
        ResponseFormat,
        JsonSchema,
        StructuredOutputs,
        Message,
        TextPart,
        ToolCall,
        CalledFunction,
        Tool,
        Function,
        ToolChoice,
        ChosenFunction,
    )
    for name, field in part.model_fields.items()
)
