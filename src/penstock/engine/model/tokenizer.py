"""Text to token ids and back. Imports no tensor library."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from penstock.engine.model.template import ChatTemplate

SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


class Tokenizer:
    """A Hugging Face fast tokenizer, its special tokens and its chat template.

    Decoding is by bytes: every token stands for some bytes, whatever its
    neighbours, and text is their UTF-8, with U+FFFD for what is not valid. So
    a stream, piece by piece, says exactly what `decode` says at once.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        settings: Mapping[str, Any] | None = None,
        templates: Mapping[str, str] | None = None,
    ) -> None:
        settings = settings or {}
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self._special_text = {
            name: text
            for name in SPECIAL_TOKENS
            if (text := _token_text(settings.get(name))) is not None
        }
        self._templates = {
            name: ChatTemplate(source, self._special_text)
            for name, source in (templates or {}).items()
            if name in ("default", "tool_use")
        }
        self._token_bytes, self._opening_bytes = _byte_rule(inner)
        self._skipped = {
            id_ for id_, token in inner.get_added_tokens_decoder().items() if token.special
        }
        self._bytes_by_id: dict[int, bytes] = {}
        self._longest = _longest_token(inner)
        self.bos_token_id = self._special_id("bos_token")
        self.eos_token_id = self._special_id("eos_token")

    @staticmethod
    def load(directory: Path) -> Tokenizer:
        """Read `tokenizer.json` and, where they are, `tokenizer_config.json` and chat templates.

        Raises as `coder`, and `ValueError` for a kind of tokenizer this module cannot decode.
        """
        inner = coder(directory)
        config = directory / "tokenizer_config.json"
        settings = msgspec.json.decode(config.read_bytes()) if config.is_file() else {}
        return Tokenizer(inner, settings, _templates(directory, settings))

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._inner.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of `text`; `special`: with those this tokenizer adds (often a BOS)."""
        return list(self._inner.encode(text, add_special_tokens=special).ids)

    def most_characters(self, tokens: int) -> int | None:
        """How long a text of so many tokens can be, at most, in characters.

        None where a tokenizer may drop text, or take any length of it for one
        token: then only encoding tells. Costs no time with the length of a text.
        """
        return None if self._longest is None else tokens * self._longest

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special tokens, and ids the tokenizer lacks, are left out."""
        stream = self.stream()
        return stream.push(ids) + stream.flush()

    def stream(self, *, continues: bool = False, keep: Collection[str] = ()) -> TextStream:
        """Decode one sequence as it grows.

        With `continues` the text goes on from a prompt: a sentencepiece
        tokenizer's first space is then a real one and is kept. Special tokens
        named in `keep` appear in the text, such as those that mark a tool call.
        """
        kept = {id_: text.encode() for text in keep if (id_ := self.token_id(text)) is not None}
        return TextStream(self, opens=not continues, kept=kept)

    def chat_template(self, *, tools: bool) -> str | None:
        """Source of the chat template, the one for `tools` if they have their own."""
        template = self._template(tools)
        return None if template is None else template.source

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int]:
        """Token ids of a conversation, up to where the assistant is to speak.

        Messages and tools are in OpenAI's form; `variables` are the template's
        own, such as `enable_thinking`. Raises `ValueError` when there is no chat
        template, it refuses the messages, or it does not mention what it is given.
        """
        return self.encode(self.chat_text(messages, tools, **variables), special=False)

    def chat_text(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """What `chat` encodes, special tokens and all."""
        template = self._template(tools is not None)
        if template is None:
            raise ValueError("this model has no chat template: send a plain prompt instead.")
        return template.render(messages, tools, variables)

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it; None if it has no such token."""
        found: int | None = self._inner.token_to_id(token)
        return found

    def token_text(self, token_id: int) -> str:
        """One token alone, to be read: U+FFFD for a part of a character, special tokens by name."""
        if token_id in self._skipped:
            return str(self._inner.id_to_token(token_id))
        return self.token_bytes(token_id).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one token adds to the text."""
        found = self._bytes_by_id.get(token_id)
        if found is None:
            token = None if token_id in self._skipped else self._inner.id_to_token(token_id)
            found = self._bytes_by_id[token_id] = b"" if token is None else self._token_bytes(token)
        return found

    def opening_bytes(self, token_id: int) -> bytes:
        """The bytes it adds where a text begins with it: some spell a space that is none there."""
        token = None if token_id in self._skipped else self.token(token_id)
        return b"" if token is None else self._opening_bytes(token)

    def token(self, token_id: int) -> str | None:
        """A token as the vocabulary spells it; None for an id it lacks."""
        spelled: str | None = self._inner.id_to_token(token_id)
        return spelled

    def _special_id(self, name: str) -> int | None:
        text = self._special_text.get(name)
        return None if text is None else self.token_id(text)

    def _template(self, tools: bool) -> ChatTemplate | None:
        own = self._templates.get("tool_use") if tools else None
        return own or self._templates.get("default")


class TextStream:
    """The text of one sequence, given out as soon as it is final."""

    def __init__(self, tokenizer: Tokenizer, *, opens: bool, kept: Mapping[int, bytes]) -> None:
        self._tokenizer = tokenizer
        self._kept = kept
        self._opens = opens  # the next token with any bytes is the text's first
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Sequence[int]) -> str:
        """Text that `ids` complete; a character still short of bytes is held back."""
        return self._utf8.decode(b"".join(map(self._bytes_of, ids)))

    def flush(self) -> str:
        """End the sequence: a character that was never completed comes as U+FFFD."""
        return self._utf8.decode(b"", final=True)

    def _bytes_of(self, token_id: int) -> bytes:
        kept = self._kept.get(token_id)
        found = self._tokenizer.token_bytes(token_id) if kept is None else kept
        if self._opens and found:
            self._opens = False
            return self._tokenizer.opening_bytes(token_id) if kept is None else found
        return found


def coder(directory: Path) -> tokenizers.Tokenizer:
    """The `tokenizer.json` of a model directory alone, for who needs ids and nothing else.

    Raises `FileNotFoundError` without one, `ValueError` for one that cannot be read.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory} holds no tokenizer.json. Convert a slow tokenizer with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...) of transformers."
        )
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path} cannot be read: {error}.") from None


_Rule = Callable[[str], bytes]


def _byte_rule(inner: tokenizers.Tokenizer) -> tuple[_Rule, _Rule]:
    """How a token spells bytes: anywhere, and as the first of a text."""
    decoder = json.loads(inner.to_str())["decoder"]
    if decoder is None:  # whole words; text is the words with spaces between
        return lambda token: b" " + token.encode(), str.encode
    steps = {step["type"]: step for step in decoder.get("decoders", [decoder])}
    if "ByteLevel" in steps:
        return _byte_level, _byte_level
    if "Metaspace" in steps:
        if steps["Metaspace"].get("prepend_scheme", "always") == "never":
            return _sentencepiece, _sentencepiece
        # Its own mark is dropped there; a space that is spelled as a byte is one.
        return _sentencepiece, lambda token: _sentencepiece(token.replace("▁", ""))
    if "ByteFallback" in steps:
        if steps.get("Strip", {}).get("start", 0) == 0:
            return _sentencepiece, _sentencepiece
        return _sentencepiece, lambda token: _sentencepiece(token).removeprefix(b" ")
    raise ValueError(
        f"tokenizer.json: decoder of type {', '.join(steps)} is not supported: "
        "ByteLevel, ByteFallback (sentencepiece) or Metaspace."
    )


# How many characters of a text a normalizer or a splitter may make one of. Four at
# most compose (Unicode, UAX 15). Those not named here may drop any number.
_SHRINKS = {"NFC": 4, "Prepend": 1, "ByteLevel": 1, "Split": 1, "Digits": 1}


def _longest_token(inner: tokenizers.Tokenizer) -> int | None:
    """Most characters of text for one token, or None where there may be any number."""
    spec = json.loads(inner.to_str())
    model, added = spec["model"], spec["added_tokens"]
    pre = _steps(spec["pre_tokenizer"], "pretokenizers")
    vocab = inner.get_vocab(with_added_tokens=True)
    byte_level = any(step["type"] == "ByteLevel" for step in pre)
    letters = _BYTE_OF if byte_level else [f"<0x{byte:02X}>" for byte in range(256)]
    # Without a token for each byte, characters go missing.
    complete = (byte_level or model.get("byte_fallback")) and all(c in vocab for c in letters)
    if model["type"] != "BPE" or not complete or any(t["lstrip"] or t["rstrip"] for t in added):
        return None
    shrinks = 1
    for step in [*_steps(spec["normalizer"], "normalizers"), *pre]:
        if step["type"] == "Replace" and len(step["content"]) >= 1 == len(
            step["pattern"].get("String", "")
        ):
            continue
        if step["type"] not in _SHRINKS or step.get("behavior") == "Removed":
            return None
        shrinks *= _SHRINKS[step["type"]]
    return shrinks * max(map(len, vocab))


def _steps(part: dict[str, Any] | None, plural: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    steps: list[dict[str, Any]] = part.get(plural, [part])
    return steps


def _byte_level_alphabet() -> dict[str, int]:
    # GPT-2's alphabet: a printable Latin-1 byte is its own character, the others
    # are numbered from U+0100 on.
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in own]
    return {chr(b): b for b in own} | {chr(0x100 + i): b for i, b in enumerate(rest)}


_BYTE_OF = _byte_level_alphabet()
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF[character] for character in token])
    except KeyError:  # an added token, spelled as it reads
        return token.encode()


def _sentencepiece(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()


def _token_text(value: str | Mapping[str, Any] | None) -> str | None:
    return value["content"] if isinstance(value, Mapping) else value


def _templates(directory: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates by name: "default", and "tool_use" where tools have their own."""
    value = settings.get("chat_template") or {}
    found = (
        {"default": value}
        if isinstance(value, str)
        else {entry["name"]: entry["template"] for entry in value}
    )
    for name, path in (
        ("default", directory / "chat_template.jinja"),
        ("tool_use", directory / "additional_chat_templates" / "tool_use.jinja"),
    ):
        if path.is_file():
            found[name] = path.read_text(encoding="utf-8")
    return found
