"""Text to token ids and back. Imports no tensor library."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import tokenizers
from jinja2 import Template, TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

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
        template: str | None = None,
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
        self._template = None if template is None else _compile(template)
        self._token_bytes, self._strips_first_space = _byte_rule(inner)
        self._skipped = {
            id_ for id_, token in inner.get_added_tokens_decoder().items() if token.special
        }
        self._bytes_by_id: dict[int, bytes] = {}
        self.bos_token_id = self._special_id("bos_token")
        self.eos_token_id = self._special_id("eos_token")

    @staticmethod
    def load(directory: Path) -> Tokenizer:
        """Read `tokenizer.json` and, where they are, `tokenizer_config.json` and the chat template.

        Raises `FileNotFoundError` without a `tokenizer.json`, `ValueError` for a
        kind of tokenizer this module cannot decode.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{directory} holds no tokenizer.json. Convert a slow tokenizer with "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...) of transformers."
            )
        config = directory / "tokenizer_config.json"
        settings = msgspec.json.decode(config.read_bytes()) if config.is_file() else {}
        jinja = directory / "chat_template.jinja"
        template = (
            jinja.read_text(encoding="utf-8")
            if jinja.is_file()
            else _default_template(settings.get("chat_template"))
        )
        return Tokenizer(tokenizers.Tokenizer.from_file(str(path)), settings, template)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._inner.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, with the special tokens this tokenizer adds (often a BOS)."""
        return list(self._inner.encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special tokens, and ids the tokenizer lacks, are left out."""
        stream = self.stream()
        return stream.push(ids) + stream.flush()

    def stream(self, *, continues: bool = False) -> TextStream:
        """Decode one sequence as it grows.

        With `continues` the text goes on from a prompt: a sentencepiece
        tokenizer's first space is then a real one and is kept.
        """
        return TextStream(self, strip=self._strips_first_space and not continues)

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation, up to where the assistant is to speak.

        Raises `ValueError` when there is no chat template or it refuses the messages.
        """
        if self._template is None:
            raise ValueError("this model has no chat template: send a plain prompt instead.")
        try:
            # Templates test `tools` and `documents` against none, as transformers passes them.
            text = self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._special_text,
            )
        except Exception as error:  # a template may do anything with what it did not expect
            raise ValueError(f"the chat template refuses these messages: {error}") from error
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one token adds to the text."""
        found = self._bytes_by_id.get(token_id)
        if found is None:
            token = None if token_id in self._skipped else self._inner.id_to_token(token_id)
            found = self._bytes_by_id[token_id] = b"" if token is None else self._token_bytes(token)
        return found

    def token(self, token_id: int) -> str | None:
        """A token as the vocabulary spells it; None for an id it lacks."""
        spelled: str | None = self._inner.id_to_token(token_id)
        return spelled

    def _special_id(self, name: str) -> int | None:
        text = self._special_text.get(name)
        return None if text is None else self._inner.token_to_id(text)


class TextStream:
    """The text of one sequence, given out as soon as it is final."""

    def __init__(self, tokenizer: Tokenizer, *, strip: bool) -> None:
        self._tokenizer = tokenizer
        self._strip = strip
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Sequence[int]) -> str:
        """Text that `ids` complete; a character still short of bytes is held back."""
        raw = b"".join(map(self._tokenizer.token_bytes, ids))
        if self._strip and raw:
            raw, self._strip = raw.removeprefix(b" "), False
        return self._utf8.decode(raw)

    def flush(self) -> str:
        """End the sequence: a character that was never completed comes as U+FFFD."""
        return self._utf8.decode(b"", final=True)


def _byte_rule(inner: tokenizers.Tokenizer) -> tuple[Callable[[str], bytes], bool]:
    """How a token spells bytes, and whether the text's first space is an artefact."""
    decoder = json.loads(inner.to_str())["decoder"]
    if decoder is None:  # whole words; text is the words with spaces between
        return lambda token: b" " + token.encode(), True
    steps = {step["type"]: step for step in decoder.get("decoders", [decoder])}
    if "ByteLevel" in steps:
        return _byte_level, False
    if "Metaspace" in steps:
        return _sentencepiece, steps["Metaspace"].get("prepend_scheme", "always") != "never"
    if "ByteFallback" in steps:
        return _sentencepiece, steps.get("Strip", {}).get("start", 0) > 0
    raise ValueError(
        f"tokenizer.json: decoder of type {', '.join(steps)} is not supported: "
        "ByteLevel, ByteFallback (sentencepiece) or Metaspace."
    )


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


def _default_template(value: str | Sequence[Mapping[str, str]] | None) -> str | None:
    # Some models name several templates; "default" is the plain conversation.
    if value is None or isinstance(value, str):
        return value
    return {entry["name"]: entry["template"] for entry in value}.get("default")


def _compile(source: str) -> Template:
    # The environment that templates are written for: that of transformers.
    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    def tojson(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise ValueError(f"the chat template cannot be read: {error}") from error
