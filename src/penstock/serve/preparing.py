"""From a checked body to what the engine is asked: token ids and sampling parameters."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pydantic import JsonValue

from penstock.engine.grammar_check import check
from penstock.engine.request import Grammar, SamplingParams
from penstock.serve import prompts
from penstock.serve.conversation import Message, Tool
from penstock.serve.fields import BadParameter
from penstock.serve.logprobs import Speller
from penstock.serve.protocol import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    GenerateBody,
    TokenizeBody,
)
from penstock.serve.service import Service
from penstock.serve.shapes import ChatShape, CompletionShape, Shape
from penstock.serve.shortening import Shorten, wanted
from penstock.serve.tools import ToolFormat, arguments_grammar, detect_format, grammar_for

# Checks may take long and wait for each other: tokenizing must not wait behind them.
_CHECKER = ThreadPoolExecutor(1, thread_name_prefix="grammar")


class Prepared(NamedTuple):
    """All that there is to do for a request, and how to word its answer."""

    shape: Shape
    body: GenerateBody
    prompts: Sequence[list[int]]
    params: SamplingParams
    shorten: Shorten | None = None  # to be awaited first: gives the prompts to take instead


class Preparing:
    """Prepares requests for one served model.

    Raises `BadParameter` or `ApiError` for what only this model can refuse.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._tokenizer = service.tokenizer
        self._speller = Speller(service.tokenizer)
        self._shortening = service.shortening
        template = service.tokenizer.chat_template(tools=True)
        self._tool_format = None if template is None else detect_format(template)

    async def completion(self, body: CompletionBody) -> Prepared:
        """Prepare `/v1/completions`."""
        self._service.check_model(body.model)
        if isinstance(body.prompts[0], str):
            for text in body.prompts:
                self._service.check_length(text, "prompt")
            ids = await prompts.encode(self._tokenizer, body.prompts)
        else:
            ids = body.prompts
        for prompt in ids:
            if not prompt:
                raise BadParameter("prompt", "prompt has no tokens; this model needs one at least.")
            self._service.check_token_ids(prompt, "prompt")
        shape = CompletionShape(body, self._speller)
        made = Prepared(shape, body, ids, await self._params(body))
        cut = wanted(self._shortening, body)
        if self._shortening is None or cut is None or max(map(len, ids)) <= cut.over:
            return made
        return made._replace(shorten=self._shortening.of_prompts(ids, cut))

    async def chat(self, body: ChatBody) -> Prepared:
        """Prepare `/v1/chat/completions`."""
        self._service.check_model(body.model)
        format_ = self._format_of_calls() if body.offered_tools else None
        if format_ is not None and body.shapes_calls:
            params = await self._params_of_calls(body, format_)
        else:
            params = await self._params(body)
        ids = await self._encode_chat(body, body.offered_tools, body.chat_template_kwargs)
        made = Prepared(ChatShape(body, self._speller, format_), body, [ids], params)
        cut = wanted(self._shortening, body)
        if self._shortening is None or cut is None or len(ids) <= cut.over:
            return made

        async def encode(messages: Sequence[Message]) -> list[int]:
            changed = body.model_copy(update={"messages": messages})
            return await self._encode_chat(changed, body.offered_tools, body.chat_template_kwargs)

        shorten = self._shortening.of_chat(body.messages, ids, cut, encode)
        return made._replace(shorten=shorten)

    async def tokens(self, body: TokenizeBody) -> list[int]:
        """Return what `/tokenize` asks for."""
        self._service.check_model(body.model)
        if body.prompt is not None:
            (ids,) = await prompts.encode(self._tokenizer, [body.prompt], body.add_special_tokens)
            return ids
        return await self._encode_chat(body, body.tools, {})

    async def text(self, body: DetokenizeBody) -> str:
        """Return what `/detokenize` asks for."""
        self._service.check_model(body.model)
        self._service.check_token_ids(body.tokens, "tokens")
        return await asyncio.to_thread(self._tokenizer.decode, body.tokens)

    def _format_of_calls(self) -> ToolFormat:
        if self._tool_format is None:
            raise BadParameter(
                "tools",
                "tools: this model's chat template asks for calls in no form that this server "
                "knows; leave tools out or set tool_choice to none.",
            )
        return self._tool_format

    async def _encode_chat(
        self, body: ChatBody | TokenizeBody, tools: Sequence[Tool], variables: dict[str, JsonValue]
    ) -> list[int]:
        try:
            return await prompts.encode_chat(
                self._tokenizer, body.messages or [], tools, variables, self._check_chat
            )
        except ValueError as error:
            # The template names what it was given and has no use for.
            named = str(error).partition(":")[0]
            param = "chat_template_kwargs" if named in variables else "messages"
            raise BadParameter("tools" if named == "tools" else param, str(error)) from error

    def _check_chat(self, text: str) -> None:
        self._service.check_length(text, "messages")

    async def _params(self, body: GenerateBody) -> SamplingParams:
        self._check_ids(body)
        grammar = body.grammar()
        params = body.params(grammar)
        if grammar is not None:
            structured = body.structured_outputs is not None
            await _check(grammar, "structured_outputs" if structured else "response_format")
        return params

    async def _params_of_calls(self, body: ChatBody, format_: ToolFormat) -> SamplingParams:
        self._check_ids(body)
        tools = [tool.as_dict() for tool in body.offered_tools]
        # What clients wrote is checked, not the grammar that we build around it.
        for tool in tools:
            await _check(arguments_grammar(tool), "tools")
        find, parallel = self._tokenizer.token_id, body.parallel_tool_calls
        return body.params(grammar_for(format_, tools, body.choice, find, parallel=parallel))

    def _check_ids(self, body: GenerateBody) -> None:
        self._service.check_token_ids(body.stop_token_ids, "stop_token_ids")
        self._service.check_token_ids([int(token) for token in body.logit_bias], "logit_bias")


async def _check(grammar: Grammar, param: str) -> None:
    try:
        await asyncio.get_running_loop().run_in_executor(_CHECKER, check, grammar)
    except ValueError as error:
        raise BadParameter(param, f"{param}: {error}") from error
