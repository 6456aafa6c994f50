"""From a prompt to a shorter one: text, token ids, the messages of a chat."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.engine.model.tokenizer import Tokenizer
from penstock.prompts.keep import Rule, kept
from penstock.prompts.parts import Parts

Message = Mapping[str, Any]


class Piece(msgspec.Struct, frozen=True):
    """A token of the prompt, or the few that share a character; surprise in nats."""

    text: str
    surprise: float
    kept: bool


class Shortened(msgspec.Struct, frozen=True):
    """A prompt before and after, counted in the tokens of the model that rated it."""

    text: str
    stays: NDArray[np.bool_]  # [tokens]
    pieces: list[Piece]

    @property
    def tokens(self) -> int:
        """How long it was."""
        return len(self.stays)

    @property
    def kept(self) -> int:
        """How long it is."""
        return int(self.stays.sum())


def shortened(
    tokenizer: Tokenizer,
    ids: Sequence[int],
    rule: Rule,
    surprise: NDArray[np.float32] | None,
    protect: Sequence[str] = (),
) -> Shortened:
    """Shorten the prompt of token `ids`; what a regular expression of `protect` matches stays.

    `surprise`, nats [n], is asked for where the rule is judged.
    """
    parts = Parts(tokenizer, ids, rule.by)
    stays = kept(parts, rule, surprise, parts.matching(protect))
    text = b"".join(spelled for spelled, stay in zip(parts.bytes, stays, strict=True) if stay)
    return Shortened(
        text=text.decode(errors="replace"),
        stays=stays,
        pieces=_pieces(
            parts,
            Parts(tokenizer, ids, "token").of,
            np.zeros(len(ids), np.float32) if surprise is None else surprise,
            stays,
        ),
    )


def untouched(tokenizer: Tokenizer, text: str) -> Shortened:
    """A text of which everything stays."""
    stays = np.ones(len(tokenizer.encode(text, special=False)), bool)
    return Shortened(text, stays, [Piece(text, 0.0, True)] if text else [])


def _pieces(
    parts: Parts,
    of: NDArray[np.int64],
    surprise: NDArray[np.float32],
    stays: NDArray[np.bool_],
) -> list[Piece]:
    found = []
    for rows in np.split(np.arange(len(of)), np.flatnonzero(np.diff(of)) + 1):
        text = b"".join(parts.bytes[row] for row in rows).decode(errors="replace")
        if text:
            found.append(Piece(text, float(surprise[rows].sum()), bool(stays[rows[0]])))
    return found


def kept_ids(
    tokenizer: Tokenizer, ids: Sequence[int], rule: Rule, surprise: NDArray[np.float32]
) -> list[int]:
    """The token ids that stay, for a model that has this tokenizer too."""
    stays = kept(Parts(tokenizer, ids, rule.by), rule, surprise)
    return [token for token, stay in zip(ids, stays, strict=True) if stay]


def may_shorten(message: Message) -> bool:
    """Whether a message of a chat may lose words: what a user says, unless it is JSON.

    A system message instructs, an assistant's are the model's own words and calls, a tool's
    are data: of these nothing is dropped, nor of JSON, which would be none any more.
    """
    content = message.get("content")
    return message.get("role") == "user" and isinstance(content, str) and not is_json(content)


def told(message: Message) -> str:
    """What a message gives a model to read: its text, and as JSON its calls and parts.

    What a model's own template writes around it is not in it.
    """
    content = message.get("content")
    others = {k: v for k, v in message.items() if v is not None and not isinstance(v, str)}
    return (content if isinstance(content, str) else "") + (
        json.dumps(others, ensure_ascii=False) if others else ""
    )


def is_json(text: str) -> bool:
    """Whether a text is a JSON object or array."""
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def with_contents(messages: Sequence[Message], contents: Mapping[int, str]) -> list[dict[str, Any]]:
    """The messages, some with other contents, by their place."""
    return [
        {**message, "content": contents[at]} if at in contents else {**message}
        for at, message in enumerate(messages)
    ]
