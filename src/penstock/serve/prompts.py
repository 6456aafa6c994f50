"""From what a client sends to token ids, without holding up the streams of others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from penstock.engine.model.tokenizer import Tokenizer
from penstock.serve.conversation import Message, Tool

T = TypeVar("T")

# Texts that are longer together, in characters, are worked on in a thread.
_LONG = 20_000


async def encode(
    tokenizer: Tokenizer, texts: Sequence[str], special: bool = True
) -> list[list[int]]:
    """Token ids of each text; `special`: with the tokens that this model begins with."""

    def work() -> list[list[int]]:
        return [tokenizer.encode(text, special=special) for text in texts]

    return await _run(work, sum(map(len, texts)))


async def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    variables: dict[str, Any],
    check: Callable[[str], None],
) -> list[int]:
    """Token ids of a conversation through the chat template; `variables` are the template's own.

    `check` sees the whole text before it is encoded, and raises what it likes. Raises
    `ValueError` when there is no template or it refuses what it is given.
    """
    said = [message.as_dict() for message in messages]
    offered = [tool.as_dict() for tool in tools] or None

    def work() -> list[int]:
        text = tokenizer.chat_text(said, offered, **variables)
        check(text)
        return tokenizer.encode(text, special=False)

    return await _run(work, sum(message.size for message in messages) + len(str(offered)))


async def _run(work: Callable[[], T], size: int) -> T:
    return work() if size <= _LONG else await asyncio.to_thread(work)
