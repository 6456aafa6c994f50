"""Whether the engine can follow a grammar to the letter, before it is asked to.

llguidance compiles most grammars in a millisecond, but some, of a few lines, take
minutes: intersected patterns grow as 2 ** n. It cannot be interrupted, so grammars
are tried in a child process, which is killed when it takes too long, and whose end
is nobody else's.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from llguidance import LLTokenizer, TokenizerWrapper

from penstock.engine.grammar_compile import NAMES, compile_grammar
from penstock.engine.request import Grammar

MAX_TEXT = 131_072  # characters of a grammar
SECONDS = 2.0  # that one may take to compile

# Keywords that say nothing about which values are valid (JSON Schema 2020-12, and
# OpenAPI's `example` and `discriminator`, which pydantic writes).
ANNOTATIONS = frozenset(
    {"$schema", "$id", "$anchor", "$comment", "title", "description", "default", "deprecated"}
    | {"example", "examples", "readOnly", "writeOnly", "contentEncoding", "contentMediaType"}
    | {"discriminator"}
)
CONSTRAINTS = frozenset(
    {"$ref", "type", "enum", "const", "format", "pattern", "minLength", "maxLength"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    | {"minItems", "maxItems", "required", "minProperties", "maxProperties"}
)
HOLDS_SCHEMA = frozenset({"items", "additionalItems", "additionalProperties"})
HOLDS_SCHEMAS = frozenset(
    {"allOf", "anyOf", "oneOf", "prefixItems"}
    | {"properties", "patternProperties", "$defs", "definitions"}
)


def check(grammar: Grammar) -> None:
    """Refuse a grammar the engine could not follow to the letter; needs no tokenizer.

    Blocks its thread, not the interpreter: for a millisecond when the grammar is a
    usual one, for at most `SECONDS` (and what others wait for before it). Raises
    `ValueError` saying what is wrong and where.
    """
    _trial().check(grammar)


class _Trial:
    """The child process, started when first needed; it ends when its input does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def check(self, grammar: Grammar) -> None:
        with self._lock:
            verdict = self._ask(msgspec.json.encode(grammar))
        if verdict is None:
            raise ValueError(
                f"the {NAMES[grammar.kind]} is refused: it does not compile within "
                f"{SECONDS:g} s. Use fewer or simpler patterns, repetitions, properties or unions."
            )
        if verdict:
            raise ValueError(verdict)

    def _ask(self, question: bytes) -> str | None:
        if self._child is None or self._child.poll() is not None:
            self._child = _start()
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(question + b"\n")
        child.stdin.flush()
        timer = threading.Timer(SECONDS, child.kill)
        timer.start()
        answer = child.stdout.readline()
        timer.cancel()
        if answer:
            return msgspec.json.decode(answer, type=str)
        child.wait()
        return None


def _start() -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a panic would print the grammar, which is the client's
        start_new_session=True,  # Ctrl-C is the server's to handle
    )
    assert child.stdout is not None
    child.stdout.readline()  # it is ready: importing is not counted
    return child


@functools.cache
def _trial() -> _Trial:
    return _Trial()


def judge(grammar: Grammar) -> None:
    """Do the work of `check` here and now, for as long as it takes."""
    if len(grammar.text) > MAX_TEXT:
        raise ValueError(
            f"the {NAMES[grammar.kind]} has {len(grammar.text):,} characters; "
            f"at most {MAX_TEXT:,} are accepted."
        )
    compile_grammar(_bytes_tokenizer(), grammar)
    if grammar.kind == "json_schema":
        _check_keywords(json.loads(grammar.text))
    elif grammar.kind == "lark":
        _check_lark(grammar.text)


def _check_keywords(schema: Any) -> None:
    """Refuse keywords that nothing here reads: a misspelt one would constrain nothing."""
    for path, key in _unread(schema, "#"):
        raise ValueError(
            f"the JSON schema is refused: {path} has the keyword {key!r}, which is not supported; "
            "leave it out, or put shared schemas under $defs."
        )


def _unread(schema: Any, path: str) -> Iterator[tuple[str, str]]:
    """Where, and which, keywords of a schema are none we know; its shape may be anything."""
    for key, value in _parts(schema) if isinstance(schema, dict) else ():
        here = f"{path}/{key}"
        if key in HOLDS_SCHEMA:
            yield from _unread(value, here)
        elif key in HOLDS_SCHEMAS:
            for name, inner in _parts(value):
                yield from _unread(inner, f"{here}/{name}")
        elif key not in ANNOTATIONS and key not in CONSTRAINTS:
            yield path, key


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


_LARK = re.compile(
    r"""  # comments and literals first, so that what follows is found only outside them
    //[^\n]* | \#[^\n]* | "(?:\\.|[^"\\\n])*" | /(?:\\.|[^/\\\n])+/
    | (?P<json>%json\b\s*) | (?P<token><[^>\n]*>) | (?P<option>\b(?:temperature|capture)\b)
    """,
    re.VERBOSE,
)


def _check_lark(text: str) -> None:
    """Refuse what llguidance reads but a mask cannot do, and check the JSON schemas within."""
    for found in _LARK.finditer(text):
        if found["token"]:
            raise ValueError(
                f"the Lark grammar is refused: {found['token']} names a special token, which is "
                "no text; write the text in quotes."
            )
        if found["option"]:
            raise ValueError(
                f"the Lark grammar is refused: the option {found['option']!r} has no effect here; "
                "leave it out."
            )
        if found["json"]:
            _check_keywords(json.JSONDecoder().raw_decode(text, found.end())[0])


class _Bytes:
    """A tokenizer of single bytes, enough to check a grammar."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<eos>")
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@functools.cache
def _bytes_tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes()))


def _answer_all() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for question in sys.stdin.buffer:
        verdict = ""
        try:
            judge(msgspec.json.decode(question, type=Grammar))
        except ValueError as error:
            verdict = str(error)
        sys.stdout.buffer.write(msgspec.json.encode(verdict) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _answer_all()
