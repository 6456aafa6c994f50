"""From the engine's token ids to text that may be shown."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from penstock.engine.model.tokenizer import TextStream
from penstock.engine.request import FinishReason
from penstock.serve.client import EngineError, Generation
from penstock.serve.stopping import StopStrings


@dataclass(slots=True)
class Piece:
    """Text that became ready at once. Counts are of the request so far, in tokens."""

    text: str
    finish_reason: FinishReason | None
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


async def pieces(
    generation: Generation, decoding: TextStream, stop: Sequence[str]
) -> AsyncIterator[Piece]:
    """Yield the text of `generation`, cut before the first of the `stop` strings.

    Every piece but the last has text: tokens whose text is not final yet (half
    a character, the beginning of a stop string) are counted with the piece
    that shows them. The last one has `finish_reason`. Leave `generation`
    afterwards: after a stop string it is still running.

    Raises `EngineError` if the engine failed at it.
    """
    stops = StopStrings(stop)
    output_tokens = 0
    async for delta in generation:
        finish = delta.finish_reason
        if finish in ("error", "abort"):
            raise EngineError(delta.error or "The engine ended this request before it was done.")
        output_tokens += len(delta.token_ids)
        text = decoding.push(delta.token_ids)
        if finish is not None:
            text += decoding.flush()
        text, stopped = stops.push(text)
        if stopped:
            finish = "stop"
        elif finish is not None:
            text += stops.flush()
        if text or finish is not None:
            yield Piece(text, finish, delta.prompt_tokens, delta.cached_tokens, output_tokens)
        if stopped:
            return
