"""Where prompts come from, and how they are cut to the wanted number of tokens."""

from __future__ import annotations

from copy import copy
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from tokenizers import Tokenizer

from penstock.workload import stdlib

Content = str | list[dict[str, Any]]  # text, or chat messages
_SHORTENED = 400_000  # characters
CHARACTERS_PER_TOKEN = 4.0  # of English and code, where nobody can count


def as_text(content: Content) -> str:
    """The content as one text, for an endpoint that takes no messages.

    What was said is joined as it stands, so that a conversation that goes on
    is its own prefix.
    """
    if isinstance(content, str):
        return content
    said = (message.get("content") or "" for message in content)
    return "".join(
        part if isinstance(part, str) else "".join(str(p.get("text", "")) for p in part)
        for part in said
    )


class Prompts(Protocol):
    """A source of prompts.

    `description` goes into the conditions; `exact` says whether the wanted
    lengths are met by count rather than by estimate, `sized` whether the source
    heeds the wanted length at all, and `unique` whether no two prompts begin alike.
    """

    sized: bool
    exact: bool
    unique: bool

    @property
    def description(self) -> str:
        """What they are, in a few words."""
        ...

    def prompt(self, index: int, tokens: int) -> Content:
        """The prompt of request `index`; the same index gives the same prompt."""
        ...


class Shortener(Protocol):
    """Makes prompts shorter before anything is measured, to about `keep` of their tokens."""

    keep: float

    @property
    def description(self) -> str:
        """How, in a few words."""
        ...

    def text(self, text: str) -> str:
        """Shorten a text that prompts are to be cut from."""
        ...

    def contents(self, contents: list[Content]) -> list[Content]:
        """Shorten each prompt, and of each chat what users say."""
        ...


class CutPrompts:
    """Prompts cut out of one long text, each from a line of its own.

    Every prompt opens with a hash of salt and index, so that two part within a
    token or so: within a run and, with a fresh salt, from an earlier run's. A
    server's prefix cache then cannot flatter it, however finely it shares.
    """

    sized = True
    unique = True

    def __init__(
        self,
        text: str,
        *,
        source: str,
        salt: str,
        seed: int,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        if not text.strip():
            raise ValueError(f"{source} holds no text to cut prompts from.")
        self.text = text
        self.salt = salt
        self.seed = seed
        self.tokenizer = tokenizer
        self.characters_per_token = CHARACTERS_PER_TOKEN
        self.exact = tokenizer is not None
        self.source = source

    @property
    def description(self) -> str:
        """See `Prompts`."""
        return f"unique, {self.cut}"

    @property
    def cut(self) -> str:
        """How, and from what, the text is cut."""
        count = "token count" if self.exact else f"{self.characters_per_token:.2f} characters/token"
        return f"cut by {count} from {self.source}"

    def sample(self, characters: int) -> str:
        """A typical piece of the text, from its middle, for counting its tokens."""
        start = max(0, (len(self.text) - characters) // 2)
        return self.text[start : start + characters]

    def shortened(self, shortener: Shortener) -> CutPrompts:
        """The same cut from a shorter text, of which its first `_SHORTENED` characters are enough.

        A prompt of so many tokens is then what is left of one that was longer.
        """
        made = CutPrompts(
            shortener.text(self.text[:_SHORTENED]),
            source=f"{self.source}, {shortener.description}",
            salt=self.salt,
            seed=self.seed,
            tokenizer=self.tokenizer,
        )
        made.characters_per_token = self.characters_per_token
        return made

    def prompt(self, index: int, tokens: int) -> str:
        """A text of `tokens` tokens: exactly so, or fewer by a merge at the cut, if countable."""
        head = blake2b(f"{self.salt} {index}".encode(), digest_size=6).hexdigest() + "\n"
        if self.tokenizer is None:
            return self.read(index, head, round(tokens * self.characters_per_token))
        # Tokens of source text hold 2 to 6 characters; widen until enough are there.
        size = tokens * 6
        encoded = self.tokenizer.encode(self.read(index, head, size))
        while len(encoded.ids) < tokens:
            size *= 2
            encoded = self.tokenizer.encode(self.read(index, head, size))
        text = self.read(index, head, size)
        end = tokens
        while True:
            cut = text[: encoded.offsets[end - 1][1]]
            # Cutting can split what the tokenizer would have merged: count again.
            excess = len(self.tokenizer.encode(cut).ids) - tokens
            if excess <= 0 or end - excess < 1:
                return cut
            end -= excess

    def read(self, place: int, head: str, size: int) -> str:
        """`size` characters: the head, then the text from a line that `place` picks, round."""
        rng = np.random.default_rng([self.seed, place])
        start = self.text.find("\n", int(rng.integers(len(self.text)))) + 1
        body = self.text[start : start + size]
        while len(head) + len(body) < size:
            body += self.text[: size - len(body)]
        return (head + body)[:size]


class GivenPrompts:
    """Prompts from a JSONL file, used as they are, in order, again from the top when exhausted."""

    sized = False
    exact = True
    unique = False  # nobody knows what a file repeats

    def __init__(self, path: Path) -> None:
        self.items = _read_jsonl(path)
        self.path = path
        self._changed = ""

    @property
    def description(self) -> str:
        """See `Prompts`."""
        return f"{len(self.items)} as given in {self.path.name}{self._changed}"

    def shortened(self, shortener: Shortener) -> GivenPrompts:
        """The same, each shorter."""
        made = copy(self)
        made.items = shortener.contents(self.items)
        made._changed = f", {shortener.description}"
        return made

    def prompt(self, index: int, tokens: int) -> Content:
        """The file's prompt; `tokens` is not heeded."""
        return self.items[index % len(self.items)]


class _Line(msgspec.Struct):
    prompt: str | None = None
    text: str | None = None
    messages: list[dict[str, Any]] | None = None


def _read_jsonl(path: Path) -> list[Content]:
    decoder = msgspec.json.Decoder(_Line)
    items: list[Content] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                entry = decoder.decode(line)
            except msgspec.DecodeError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
            content = entry.messages or entry.prompt or entry.text
            if not content:
                raise ValueError(
                    f"{path}, line {number}: no prompt; each line needs "
                    '"prompt" (or "text") or "messages".'
                )
            items.append(content)
    if not items:
        raise ValueError(f"{path} holds no prompt.")
    return items


def from_file(path: Path, *, salt: str, seed: int, tokenizer: Tokenizer | None) -> Prompts:
    """Prompts of a `.jsonl` file as they are, or cut out of any other file's text."""
    if path.suffix == ".jsonl":
        return GivenPrompts(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    return CutPrompts(text, source=path.name, salt=salt, seed=seed, tokenizer=tokenizer)


def held_out_stdlib(*, salt: str, seed: int, tokenizer: Tokenizer | None) -> Prompts:
    """Prompts cut from the standard library's modules that the embedded model never saw."""
    return CutPrompts(
        "\n".join(text for _, text in stdlib.texts("held_out")),
        source="held-out standard-library sources",
        salt=salt,
        seed=seed,
        tokenizer=tokenizer,
    )
