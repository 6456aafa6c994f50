"""Prompts made shorter before they are queued, by a small model in a process of its own.

That process is an engine like the one that answers: same messages, same watch over it,
same limits. It is asked for the log probabilities of a prompt, and nothing else. So
neither the event loop nor a step of the large model ever waits for it; on a CPU the two
share cores, and this one gives way.
"""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from penstock import models
from penstock.engine.model.tokenizer import Tokenizer
from penstock.engine.options import EngineOptions
from penstock.engine.request import GenerateRequest
from penstock.prompts import surprise
from penstock.prompts.keep import Rule
from penstock.prompts.shorten import kept_ids, may_shorten
from penstock.serve.client import ENGINE_COMMAND, EngineClient, EngineError
from penstock.serve.conversation import Message
from penstock.serve.fields import BadParameter
from penstock.serve.options import ServeOptions
from penstock.serve.protocol import CompletionBody, GenerateBody
from penstock.serve.supervisor import Supervisor

# Makes a request's prompts shorter, when it is its turn.
Shorten = Callable[[], Awaitable[Sequence[list[int]]]]
Encode = Callable[[Sequence[Message]], Awaitable[list[int]]]

_GIVE_WAY = ("nice", "-n", "10")


class Wanted(NamedTuple):
    """Shorten prompts of more than `over` tokens to the share `keep`."""

    keep: float
    over: int


class Shortening:
    """What shortens the prompts of one server.

    `over` is how many tokens a prompt has that is shortened unasked. `requests`, `before`,
    `after` and `seconds` count what was done: requests, their tokens, the time they waited.
    """

    def __init__(self, engine: Supervisor, tokenizer: Tokenizer, rule: Rule, over: int) -> None:
        self.engine = engine
        self.rule = rule
        self.over = over
        self.requests = self.before = self.after = 0
        self.seconds = 0.0
        self._tokenizer = tokenizer

    @classmethod
    async def start(
        cls, model: str, engine: EngineOptions, options: ServeOptions, tokenizer: Tokenizer
    ) -> Self:
        """Start the small model that a server's options ask for; `engine.close` ends it.

        Raises as `small_model`, and `EngineDied` if it cannot be loaded.
        """
        assert options.compress_keep is not None
        name = small_model(model, engine, options)
        command: Sequence[str] = ENGINE_COMMAND
        if engine.device == "cpu" and (nice := shutil.which(_GIVE_WAY[0])):
            command = (nice, *_GIVE_WAY[1:], *command)
        own = surprise.options(tokenizer.vocab_size, engine)
        begin = partial(EngineClient.start, name, own, command, options.log_format)
        running = await Supervisor.start(begin, options.kill_stalled_after_s)
        return cls(running, tokenizer, Rule(keep=options.compress_keep), options.compress_over)

    @property
    def about(self) -> dict[str, object]:
        """How it is set, for `/v1/models`."""
        return {"model": self.engine.facts.name, "over_tokens": self.over, "rule": self.rule}

    def of_prompts(self, prompts: Sequence[list[int]], wanted: Wanted) -> Shorten:
        """Shorten plain prompts, token ids, each by itself."""

        async def shorten() -> Sequence[list[int]]:
            return [
                await self._shortened(prompt, wanted.keep) if len(prompt) > wanted.over else prompt
                for prompt in prompts
            ]

        return self._counted(shorten, sum(map(len, prompts)))

    def of_chat(
        self, messages: Sequence[Message], ids: list[int], wanted: Wanted, encode: Encode
    ) -> Shorten:
        """Shorten what users say in a chat; `encode` takes the messages through the template.

        Each message is shortened by itself, so a conversation that goes on begins as before.
        """

        async def shorten() -> Sequence[list[int]]:
            changed = list(messages)
            for at, message in enumerate(messages):
                if may_shorten(message.as_dict()):
                    text = await self._shorter_text(message.text, wanted.keep)
                    changed[at] = message.model_copy(update={"content": text})
            return [ids if changed == list(messages) else await encode(changed)]

        return self._counted(shorten, len(ids))

    async def _shorter_text(self, text: str, keep: float) -> str:
        ids = await asyncio.to_thread(self._tokenizer.encode, text, special=False)
        if len(ids) <= self.rule.first + self.rule.last:
            return text
        return self._tokenizer.decode(await self._shortened(ids, keep))

    async def _shortened(self, ids: list[int], keep: float) -> list[int]:
        if len(ids) <= self.rule.first + self.rule.last:
            return ids
        rule = Rule(keep=keep, first=self.rule.first, last=self.rule.last)
        rated = await self._surprise(ids)
        return await asyncio.to_thread(kept_ids, self._tokenizer, ids, rule, rated)

    async def _surprise(self, ids: list[int]) -> NDArray[np.float32]:
        over = surprise.windows(len(ids), self.engine.facts.max_model_len)
        answers = []
        for window in over:
            request = GenerateRequest(
                id=uuid.uuid4().hex, prompt=ids[window.start : window.end], params=surprise.ASKED
            )
            rated = None
            async with await self.engine.generate(request) as generation:
                async for delta in generation:
                    rated = delta.prompt_logprobs or rated
                    if delta.error is not None:
                        raise EngineError(f"Shortening the prompt failed: {delta.error}")
            answers.append(rated)
        return surprise.joined(over, answers)

    def _counted(self, shorten: Shorten, before: int) -> Shorten:
        async def counted() -> Sequence[list[int]]:
            began = time.monotonic()
            made = await shorten()
            self.requests += 1
            self.before += before
            self.after += sum(map(len, made))
            self.seconds += time.monotonic() - began
            return made

        return counted


def wanted(shortening: Shortening | None, body: GenerateBody) -> Wanted | None:
    """Which prompts of a request are to be shortened; None: none of them.

    Raises `BadParameter` where it asks for what cannot be.
    """
    asked = body.compress_prompt
    if asked is False or (shortening is None and asked is None):
        return None
    if shortening is None:
        raise BadParameter(
            "compress_prompt",
            "compress_prompt: this server shortens no prompts; start it with --compress-prompts, "
            "or leave this out.",
        )
    exact = "prompt_logprobs" if body.prompt_logprobs is not None else None
    if isinstance(body, CompletionBody) and body.echo:
        exact = "echo"
    if exact and asked is not None:
        raise BadParameter(
            "compress_prompt",
            f"compress_prompt and {exact}, which shows the prompt, exclude "
            "each other; leave one out.",
        )
    if exact:
        return None
    keep = shortening.rule.keep if asked is None or asked is True else asked
    return Wanted(keep, shortening.over if asked is None else 0)


def small_model(model: str, engine: EngineOptions, options: ServeOptions) -> str:
    """The model that judges prompts of `model`: as asked, or one that guesses for it.

    Raises `ValueError` where there is none, or it has another vocabulary.
    """
    name = options.compress_model or engine.draft_model
    if name is None and model == "embedded":
        name = "embedded-draft"
    if name is None:
        raise ValueError(
            f"compress_model: name a small model of the vocabulary of {model} that judges its "
            "prompts (--compress-model)."
        )
    ours, theirs = (Tokenizer.load(models.path(one)) for one in (model, name))
    if ours.vocab_size != theirs.vocab_size or any(
        ours.token(id_) != theirs.token(id_) for id_ in range(ours.vocab_size)
    ):
        raise ValueError(
            f"compress_model={name} has another vocabulary than {model}: its tokens cannot be "
            "judged. Name a model of the same family."
        )
    return name
