"""From a checked body to what the engine is asked: token ids and sampling parameters."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import JsonValue

from penstock.engine import grammar as grammars
from penstock.engine.request import Grammar, SamplingParams
from penstock.serve import prompts
from penstock.serve.conversation import Tool
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
from penstock.serve.tools import ToolFormat, detect_format, grammar_for


class Prepared(NamedTuple):
    """All that there is to do for a request, and how to word its answer."""

    shape: Shape
    body: GenerateBody
    prompts: Sequence[list[int]]
    params: SamplingParams


class Preparing:
    """Prepares requests for one served model.

    Raises `BadParameter` or `ApiError` for what only this model can refuse.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._tokenizer = service.tokenizer
        self._speller = Speller(service.tokenizer)
        template = service.tokenizer.chat_template(tools=True)
        self._tool_format = None if template is None else detect_format(template)

    async def completion(self, body: CompletionBody) -> Prepared:
        """Prepare `/v1/completions`."""
        self._service.check_model(body.model)
        if isinstance(body.prompts[0], str):
            ids = await prompts.encode(self._tokenizer, body.prompts)
        else:
            ids = body.prompts
        for prompt in ids:
            if not prompt:
                raise BadParameter("prompt", "prompt has no tokens; this model needs one at least.")
            self._service.check_token_ids(prompt, "prompt")
        shape = CompletionShape(body, self._speller)
        return Prepared(shape, body, ids, await self._params(body, body.grammar()))

    async def chat(self, body: ChatBody) -> Prepared:
        """Prepare `/v1/chat/completions`."""
        self._service.check_model(body.model)
        grammar, format_ = body.grammar(), None
        if body.offered_tools:
            format_ = self._format_of_calls()
            if body.forced_choice is not None:
                tools = [tool.as_dict() for tool in body.tools]
                forced = grammar_for(
                    format_,
                    tools,
                    body.forced_choice,
                    self._tokenizer.token_id,
                    parallel=body.parallel_tool_calls,
                )
                grammar = "tools", forced
        params = await self._params(body, grammar)
        ids = await self._encode_chat(body, body.offered_tools, body.chat_template_kwargs)
        return Prepared(ChatShape(body, self._speller, format_), body, [ids], params)

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
            return await prompts.encode_chat(self._tokenizer, body.messages or [], tools, variables)
        except ValueError as error:
            # The template names what it was given and has no use for.
            named = str(error).partition(":")[0]
            param = "chat_template_kwargs" if named in variables else "messages"
            raise BadParameter("tools" if named == "tools" else param, str(error)) from error

    async def _params(
        self, body: GenerateBody, grammar: tuple[str, Grammar] | None
    ) -> SamplingParams:
        self._service.check_token_ids(body.stop_token_ids, "stop_token_ids")
        self._service.check_token_ids([int(token) for token in body.logit_bias], "logit_bias")
        params = body.params(None if grammar is None else grammar[1])
        if grammar is not None:
            name, wanted = grammar
            try:
                # A schema of a megabyte takes its time.
                await asyncio.to_thread(grammars.check, wanted)
            except ValueError as error:
                raise BadParameter(name, f"{name}: {error}") from error
        return params
