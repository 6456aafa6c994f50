"""Output that must match a JSON schema, a regular expression or a Lark grammar.

llguidance follows the grammar over the tokenizer's bytes and says, before each
token, which ids may come next: a bitmask. It lets go of Python's interpreter lock
while it works, so masks are computed beside the model's forward pass and grammars
are compiled beside the steps. Imports PyTorch only to apply a mask.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par
from numpy.typing import NDArray

from penstock.engine.request import Grammar

if TYPE_CHECKING:
    import torch

MAX_TEXT = 131_072  # characters of a grammar
CACHED = 256  # compiled grammars kept

# What one grammar may cost, of whoever sends it: about 100 ms to compile and 20 ms
# for a mask on one core, and 40 MB. A hundredth of it is usual.
LIMITS = LLParserLimits(
    initial_lexer_fuel=200_000,
    step_lexer_fuel=50_000,
    step_max_items=10_000,
    max_lexer_states=20_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)

# Between two tokens of JSON: nothing, one space, or a new line with its indent. Where
# any run of whitespace is allowed, a model in doubt writes spaces until max_tokens.
WHITESPACE = r" |\r?\n[ \t]{0,64}"

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

    Takes a millisecond for a usual grammar and at most about 200 ms, without the
    interpreter lock. Raises `ValueError` saying what is wrong and where.
    """
    if len(grammar.text) > MAX_TEXT:
        raise ValueError(
            f"the {_NAMES[grammar.kind]} has {len(grammar.text):,} characters; "
            f"at most {MAX_TEXT:,} are accepted."
        )
    _compile(_bytes_tokenizer(), grammar)
    if grammar.kind == "json_schema":
        _check_keywords(json.loads(grammar.text))
    elif grammar.kind == "lark":
        _check_lark(grammar.text)


class Matcher:
    """How far one sequence has come in its grammar."""

    __slots__ = ("_inner",)

    def __init__(self, inner: LLMatcher) -> None:
        self._inner = inner

    def copy(self) -> Matcher:
        """A second sequence that has come as far; compiled parts are shared."""
        return Matcher(self._inner.deep_copy())

    def accept(self, token_id: int) -> None:
        """Take the next token, one the last mask allowed; an end-of-sequence id ends, unaccepted.

        Raises `ValueError` for a token the grammar does not allow here.
        """
        if not self._inner.consume_token(token_id):
            raise ValueError(f"token {token_id} is not allowed by the grammar: {self.error}")

    @property
    def complete(self) -> bool:
        """Whether the grammar is satisfied and nothing but the end can follow."""
        return self._inner.is_stopped() and not self._inner.is_error()

    @property
    def error(self) -> str | None:
        """Why this grammar can be followed no further (it hit a limit); ask after each mask."""
        return _said(self._inner.get_error()) if self._inner.is_error() else None


class Grammars:
    """The grammars of one engine: compiles them, keeps them, computes masks.

    Every id of `eos_token_ids` is allowed exactly where a grammar may end; ids
    between the tokenizer's size and `vocab_size` (padding of the logits) never.
    The tokenizer is read from `directory` when a first grammar comes.
    """

    def __init__(self, directory: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._directory = directory
        self._vocab_size = vocab_size
        self._eos_token_ids = list(eos_token_ids)
        self._compiled: OrderedDict[Grammar, Matcher] = OrderedDict()  # the compiler's thread only
        self._executor = LLExecutor(os.cpu_count())
        # One thread each: a slow grammar must not hold up the masks of others.
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._masker = ThreadPoolExecutor(1, thread_name_prefix="mask")

    def start(self, grammar: Grammar) -> Future[Matcher]:
        """A matcher at the grammar's beginning, once compiled.

        The future raises `ValueError` for a grammar that `check` or its limits refuse,
        and where the model has no tokenizer or no end-of-sequence id.
        """
        return self._compiler.submit(self._start, grammar)

    def masks(self, matchers: Sequence[Matcher]) -> Future[NDArray[np.int32]]:
        """Which tokens may come next: bit t % 32 of word t // 32 of each matcher's row.

        The matchers belong to the computation until the future is done. A matcher
        whose `error` is set afterwards has a row that allows only the end.
        """
        return self._masker.submit(self._fill, list(matchers))

    def close(self) -> None:
        """End both threads; what was not begun is cancelled."""
        self._compiler.shutdown(cancel_futures=True)
        self._masker.shutdown(cancel_futures=True)

    def _start(self, grammar: Grammar) -> Matcher:
        compiled = self._compiled.get(grammar)
        if compiled is None:
            compiled = self._compiled[grammar] = Matcher(_compile(self._tokenizer, grammar))
            if len(self._compiled) > CACHED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return compiled.copy()

    def _fill(self, matchers: list[Matcher]) -> NDArray[np.int32]:
        masks = allocate_token_bitmask(len(matchers), self._vocab_size)
        rows = [(matcher._inner, row) for row, matcher in enumerate(matchers)]
        fill_next_token_bitmask_par(self._executor, rows, masks)
        return masks

    @functools.cached_property
    def _tokenizer(self) -> LLTokenizer:
        path = self._directory / "tokenizer.json"
        if not path.is_file():
            raise ValueError(f"{self._directory} holds no tokenizer.json, which grammars need.")
        if not self._eos_token_ids:
            raise ValueError("this model names no end-of-sequence token, which grammars need.")
        return LLTokenizer(
            path.read_text(encoding="utf-8"),
            n_vocab=self._vocab_size,
            eos_token=self._eos_token_ids,
        )


def apply(logits: torch.Tensor, rows: Sequence[int], masks: NDArray[np.int32]) -> None:
    """Set to -inf, in place, what `masks[i]` forbids in row `rows[i]` of fp32 `logits` [L, vocab].

    Rows must differ and logits be finite or -inf.
    """
    import torch

    octets = torch.from_numpy(masks.view(np.uint8)).to(logits.device).int()
    # Adding 0 or -inf is a plain vector loop; a masked fill branches, and takes five
    # times as long on a CPU.
    bias = torch.nn.functional.embedding(octets, _lanes(logits.device))  # [rows, octets, 8]
    index = torch.tensor(rows, device=logits.device)
    logits.index_add_(0, index, bias.flatten(1)[:, : logits.shape[-1]])


@functools.cache
def _lanes(device: torch.device) -> torch.Tensor:
    """What the eight bits of each octet add to logits: 0 where set, -inf where not."""
    import torch

    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return torch.from_numpy(np.where(bits == 1, np.float32(0), -np.float32(np.inf))).to(device)


_NAMES = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "Lark grammar"}


def _compile(tokenizer: LLTokenizer, grammar: Grammar) -> LLMatcher:
    """A matcher at the beginning, its first mask already computed."""
    try:
        matcher = LLMatcher(tokenizer, _source(grammar), log_level=0, limits=LIMITS)
    except ValueError as error:
        raise _refusal(grammar, str(error)) from error
    warnings = matcher.get_grammar_warnings()
    if not matcher.is_error():
        matcher.compute_bitmask()  # finds what matches nothing, and warms the lexer for copies
    if matcher.is_error() or warnings:
        raise _refusal(grammar, matcher.get_error() or warnings[0])
    return matcher


def _source(grammar: Grammar) -> str:
    if grammar.kind == "regex":
        return LLMatcher.grammar_from_regex(grammar.text)
    if grammar.kind == "lark":
        return LLMatcher.grammar_from_lark(grammar.text)
    return LLMatcher.grammar_from_json_schema(
        grammar.text,
        overrides={"whitespace_pattern": WHITESPACE, "coerce_one_of": False, "lenient": False},
    )


def _refusal(grammar: Grammar, message: str) -> ValueError:
    return ValueError(f"the {_NAMES[grammar.kind]} is refused: {_said(message)}")


def _said(message: str) -> str:
    """The gist of llguidance's message, which draws pictures and shows its own state."""
    if message.startswith("NoExtension"):
        return "nothing can match it"
    gist = re.search(r"^error: (.+)$", message, re.MULTILINE)
    return (gist[1] if gist else message.split("\n", 1)[0]).strip()[:300]


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
