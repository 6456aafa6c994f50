"""What a mask lets through matches the grammar, and a grammar we cannot follow is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import penstock.models
from penstock.engine import grammar_check
from penstock.engine.grammar import Grammars, Matcher, apply, check
from penstock.engine.request import Grammar

EMBEDDED = Path(penstock.models.__file__).parent / "embedded"
TOKENIZER = tokenizers.Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
TOKENIZER.add_special_tokens(["<|end|>"])  # a second end of sequence, as chat models have
VOCAB, PADDED = 4097, 4160
EOS = (0, 4096)
WHOLE = [i for i in range(1, 4096) if "\ufffd" not in TOKENIZER.decode([i])]  # not a part of UTF-8


@pytest.fixture(scope="module")
def grammars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grammars]:
    directory = tmp_path_factory.mktemp("tokenizer")
    TOKENIZER.save(str(directory / "tokenizer.json"))
    grammars = Grammars(directory, PADDED, EOS)
    yield grammars
    grammars.close()


def schema(value: object) -> Grammar:
    return Grammar(kind="json_schema", text=json.dumps(value, ensure_ascii=False))


def regex(text: str) -> Grammar:
    return Grammar(kind="regex", text=text)


def lark(text: str) -> Grammar:
    return Grammar(kind="lark", text=text)


def begin(grammars: Grammars, grammar: Grammar) -> Matcher:
    check(grammar)
    return grammars.start(grammar).result()


def allowed(grammars: Grammars, matcher: Matcher) -> set[int]:
    logits = torch.zeros(1, PADDED)
    apply(logits, [0], grammars.masks([matcher]).result())
    assert matcher.error is None, matcher.error
    return set(torch.isfinite(logits[0]).nonzero().flatten().tolist())


def write(grammars: Grammars, matcher: Matcher, seed: int, limit: int = 400) -> str | None:
    """Sample from random logits under the masks; the text, or None if cut at `limit`.

    The end is made ever likelier, and so is what leads there: brackets and quotes.
    """
    generator = torch.Generator().manual_seed(seed)
    closing = [i for text in '"]},' for i in TOKENIZER.encode(text).ids]
    ids: list[int] = []
    while len(ids) < limit:
        logits = torch.randn(1, PADDED, generator=generator)
        logits[:, closing] += len(ids) / 10
        logits[:, EOS] += len(ids) / 5
        apply(logits, [0], grammars.masks([matcher]).result())
        assert matcher.error is None, matcher.error
        token = int(logits.argmax())
        assert logits[0, token] > -torch.inf, "a mask that leaves nothing"
        if token in EOS:
            return TOKENIZER.decode(ids, skip_special_tokens=False)
        assert not matcher.complete
        ids.append(token)
        matcher.accept(token)
    return None


# Schemas that some value satisfies, of the keywords people use.

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=6)
NAMES = st.sampled_from(["a", "name", "größe", "🌧", 'with "quotes"', "x y"])


@st.composite
def strings(draw: st.DrawFn) -> dict[str, object]:
    low = draw(st.integers(0, 4))
    return draw(
        st.sampled_from(
            [
                {"type": "string"},
                {"type": "string", "minLength": low, "maxLength": low + 3},
                {"type": "string", "pattern": "^[a-c]+[0-9]{2,3}$"},
                {"type": "string", "pattern": "^(é|日本|🎈)*$", "maxLength": 9},
                {"type": "string", "format": "date"},
                {"type": "string", "format": "uuid"},
            ]
        )
    )


@st.composite
def numbers(draw: st.DrawFn) -> dict[str, object]:
    kind = draw(st.sampled_from(["integer", "number"]))
    low = draw(st.integers(-1000, 1000))
    high = low + draw(st.integers(2, 500))
    return draw(
        st.sampled_from(
            [
                {"type": kind},
                {"type": kind, "minimum": low, "maximum": high},
                {"type": kind, "exclusiveMinimum": low, "exclusiveMaximum": high},
                {"type": "integer", "multipleOf": 7},
            ]
        )
    )


CONSTANTS = st.one_of(TEXT, st.integers(-100, 100), st.booleans(), st.none())
LEAVES = st.one_of(
    strings(),
    numbers(),
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.just({"type": ["string", "null"]}),
    st.builds(lambda value: {"const": value}, CONSTANTS),
    st.builds(lambda values: {"enum": values}, st.lists(CONSTANTS, min_size=1, max_size=4)),
)


def deeper(inner: st.SearchStrategy[dict[str, object]]) -> st.SearchStrategy[dict[str, object]]:
    @st.composite
    def objects(draw: st.DrawFn) -> dict[str, object]:
        properties = draw(st.dictionaries(NAMES, inner, max_size=4))
        required = draw(st.lists(st.sampled_from([*properties, "more"]), unique=True, max_size=4))
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": True if "more" in required else draw(st.booleans()),
        }

    @st.composite
    def arrays(draw: st.DrawFn) -> dict[str, object]:
        low = draw(st.integers(0, 2))
        bounds = draw(st.sampled_from([{}, {"minItems": low}, {"minItems": 0, "maxItems": 3}]))
        return {"type": "array", "items": draw(inner), **bounds}

    union = st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3))
    return st.one_of(objects(), arrays(), union)


@given(value=st.recursive(LEAVES, deeper, max_leaves=8), seed=st.integers(0, 2**31))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_json_schemas(grammars: Grammars, value: dict[str, object], seed: int) -> None:
    text = write(grammars, begin(grammars, schema(value)), seed)
    if text is not None:
        jsonschema.Draft202012Validator(
            value, format_checker=jsonschema.FormatChecker(["date", "uuid"])
        ).validate(json.loads(text))


TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer", "minimum": 0, "maximum": 99},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SHAPES = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": kind}, size: {"type": "number"}},
            "required": ["kind", size],
            "additionalProperties": False,
        }
        for kind, size in (("circle", "radius"), ("square", "side"))
    ]
}


@pytest.mark.parametrize(
    "value",
    [
        TREE,
        SHAPES,
        {"type": "object"},
        {"const": "rain 🌧️ é\n\"quoted\" \\"},
        {"enum": ["日本", "🎈", "ß"]},
        {"type": "array", "prefixItems": [{"type": "boolean"}], "items": False, "minItems": 1},
        {"type": "object", "patternProperties": {"^x-": {"type": "integer"}},
         "additionalProperties": False},
        {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]},
    ],
)  # fmt: skip
def test_named_json_schemas(grammars: Grammars, value: dict[str, object]) -> None:
    finished = 0
    for seed in range(8):
        text = write(grammars, begin(grammars, schema(value)), seed)
        if text is not None:
            jsonschema.Draft202012Validator(value).validate(json.loads(text))
            finished += 1
    assert finished >= 4


@pytest.mark.parametrize(
    "text",
    [
        "yes|no|may be",
        r"[0-9]{4}-[0-9]{2}",
        r"(?i)straße",
        r"é{2,5}🎈?",
        r"[a-z]{1,3}@\w{1,2}\.(com|org)",
        r"a*",
        r"",
        r"(0|[1-9][0-9]{0,3})(\.[0-9]+)?",
        'red\\|green|[*]|/slash"',
        "line\nbreak",
    ],
)
def test_regular_expressions(grammars: Grammars, text: str) -> None:
    finished = 0
    for seed in range(8):
        written = write(grammars, begin(grammars, regex(text)), seed, limit=150)
        if written is not None:
            assert re.fullmatch(text, written), written
            finished += 1
    assert finished >= 6


def test_lark_grammars(grammars: Grammars) -> None:
    sums = lark('start: term ("+" term)*\nterm: /[0-9]{1,3}/ | "(" start ")"')
    results = [write(grammars, begin(grammars, sums), seed) for seed in range(10)]
    finished = [text for text in results if text is not None]
    assert len(finished) >= 5
    for text in finished:
        assert re.fullmatch("[0-9+()]+", text)
        eval(re.sub(r"\b0+(?=[0-9])", "", text))

    mixed = lark('start: "call " %json {"type": "integer", "minimum": 0, "maximum": 9} "!"')
    assert re.fullmatch("call [0-9]!", write(grammars, begin(grammars, mixed), 1) or "")


def test_the_end_is_allowed_where_the_grammar_may_end_and_only_there(grammars: Grammars) -> None:
    matcher = begin(grammars, regex("ab?"))
    a, b = (TOKENIZER.token_to_id(letter) for letter in "ab")
    assert not allowed(grammars, matcher) & set(EOS)
    matcher.accept(a)
    assert allowed(grammars, matcher) == {b, *EOS}
    assert not matcher.complete
    matcher.accept(b)
    assert allowed(grammars, matcher) == set(EOS)
    assert matcher.complete


def test_padding_and_special_ids_are_never_text(grammars: Grammars) -> None:
    ids = allowed(grammars, begin(grammars, regex(r"(?s).*")))
    assert ids >= set(WHOLE)
    assert not ids & set(range(VOCAB, PADDED))


@pytest.mark.parametrize(
    "grammar", [schema(TREE), regex("(ab|cd)+ef"), lark('start: "x" start "y" | "z"')]
)
def test_a_sequence_cut_early_can_still_be_finished(grammars: Grammars, grammar: Grammar) -> None:
    for limit in (1, 2, 5, 9):
        matcher = begin(grammars, grammar)
        if write(grammars, matcher, seed=limit, limit=limit) is None:
            assert matcher.error is None
            assert allowed(grammars, matcher)


def test_a_token_outside_the_grammar_is_an_error(grammars: Grammars) -> None:
    matcher = begin(grammars, regex("a+"))
    matcher.accept(TOKENIZER.token_to_id("b"))
    assert "doesn't satisfy the grammar" in (matcher.error or "")
    assert not matcher.complete


def test_rows_and_copies_do_not_touch_each_other(grammars: Grammars) -> None:
    one = begin(grammars, regex("ab"))
    a, b = (TOKENIZER.token_to_id(letter) for letter in "ab")
    one.accept(a)
    two = one.copy()
    three = begin(grammars, regex("ab"))
    two.accept(b)
    masks = grammars.masks([one, two, three]).result()
    logits = torch.randn(5, PADDED)
    before = logits.clone()
    apply(logits, [4, 0, 2], masks)
    assert torch.equal(logits[[1, 3]], before[[1, 3]])
    finite = [set(row.isfinite().nonzero().flatten().tolist()) for row in logits[[4, 0, 2]]]
    assert finite[:2] == [{b}, set(EOS)]
    assert a in finite[2] or TOKENIZER.token_to_id("ab") in finite[2]
    kept = logits.isfinite()
    assert torch.equal(logits[kept], before[kept])


def test_whitespace_of_pretty_json_is_allowed_and_a_run_of_it_is_not(grammars: Grammars) -> None:
    grammar = schema({"type": "object"})
    for text in (
        json.dumps({"a": [1, {"b": None}]}, indent=4),
        json.dumps({"a": [1, {"b": None}]}),
        '{"a":[1,{"b":null}]}',
        json.dumps({"a": [{}]}, indent="\t").replace("\n", "\r\n"),
    ):
        matcher = begin(grammars, grammar)
        for token in TOKENIZER.encode(text, add_special_tokens=False).ids:
            assert token in allowed(grammars, matcher), (text, token)
            matcher.accept(token)
        assert allowed(grammars, matcher) == set(EOS)
    matcher = begin(grammars, grammar)
    for token in TOKENIZER.encode("{ ", add_special_tokens=False).ids:
        matcher.accept(token)
    assert TOKENIZER.token_to_id("Ġ") not in allowed(grammars, matcher)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (Grammar(kind="json_schema", text="{"), "JSON schema"),
        (Grammar(kind="json_schema", text="[]"), "JSON schema"),
        (schema({"type": "strin"}), "strin"),
        (schema({"type": "string", "minLenght": 3}), "# has the keyword 'minLenght'"),
        (schema({"anyOf": [{}, {"properties": {"a": {"maxi": 3}}}]}), "#/anyOf/1/properties/a has"),
        (schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (schema({"not": {"type": "string"}}), "not"),
        (schema({"type": "object", "x-guidance": {"lenient": True}}), "x-guidance"),
        (schema({"type": "string", "format": "colour"}), "colour"),
        (schema({"type": "string", "pattern": "(?=a)b"}), "look-around"),
        (schema({"$ref": "#/$defs/none"}), "/\\$defs/none"),
        (schema({"$ref": "https://example.com/s"}), "https://example.com/s"),
        (schema({"$ref": "#"}), "nothing can match"),
        (schema({"$defs": 3, "type": "string", "minLength": 3, "maxLength": 2}), "minLength"),
        (schema({"enum": []}), "anyOf is empty|enum"),
        (regex("a("), "regular expression is refused: unclosed group"),
        (regex(r"(a)\1"), "backreferences"),
        (regex(r"\bword"), "lookarounds"),
        (regex(r"[^\s\S]"), "nothing can match"),
        (lark("start: missing"), "unknown name"),
        (lark('begin: "a"'), "start"),
        (lark(""), "Empty"),
        (lark('start: <|endoftext|> "a"'), "<|endoftext|>"),
        (lark('start: x\nx[temperature=0.5]: /a*/'), "temperature"),
        (lark('start: %json {"x-guidance": {"lenient": true}, "not": {}}'), "not"),
        (lark('start: %json {"type": "string", "minLenght": 3}'), "minLenght"),
        (regex("a" * 200_000), "at most 131,072"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused_by_name(grammar: Grammar, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        check(grammar)
    assert len(str(raised.value)) < 500


def test_words_inside_lark_literals_are_not_options() -> None:
    check(lark('start: "<|x|> temperature=1" /<capture>/ // <note> temperature\n'))


NESTED = '{"type":"array","items":' * 20_000 + "true" + "}" * 20_000
HOSTILE = [
    Grammar(kind="json_schema", text=NESTED[:100_000]),
    Grammar(kind="json_schema", text='{"anyOf":[' * 5_000 + "]}" * 5_000),
    schema({"type": "string", "minLength": 10**9}),
    schema({"type": "array", "minItems": 10**9, "items": {"type": "string"}}),
    schema({"type": "integer", "multipleOf": 1_000_003, "minimum": 1, "maximum": 10**15}),
    schema({"allOf": [{"type": "string", "pattern": f"a.*{c}.*z"} for c in "bcdefghijklmnop"]}),
    schema({"properties": {f"p{i}": {"type": "string", "maxLength": 99} for i in range(2_000)}}),
    regex("a{1000000}"),
    regex("((a{1000}){1000}){1000}"),
    regex("(.{0,5000}a.{0,5000}b){100}"),
    regex("[ab]*a[ab]{500}"),
    regex("(" * 5_000 + ")" * 5_000),
    regex(r"(\w{1000}\W{1000}){50}"),
    lark('start: "a"{1000000}'),
    lark("start: " + "(" * 5_000 + '"a"' + ")" * 5_000),
    lark("start: x0\n" + "\n".join(f"x{i}: x{i + 1} x{i + 1} | x{i + 1}" for i in range(30))
         + '\nx30: "a"'),
    lark("start: X0\n" + "\n".join(f"X{i}: X{i + 1} X{i + 1}" for i in range(30)) + '\nX30: "a"'),
]  # fmt: skip


@pytest.mark.parametrize("grammar", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_grammars_cost_little(grammars: Grammars, grammar: Grammar) -> None:
    """Refused, or followed for 50 tokens, or stopped by a limit: in bounded processor time."""
    try:
        check(grammar)
    except ValueError:
        return
    spent = time.process_time()
    matcher = grammars.start(grammar).result()
    for step in range(50):
        logits = torch.randn(1, PADDED, generator=torch.Generator().manual_seed(step))
        apply(logits, [0], grammars.masks([matcher]).result())
        token = int(logits.argmax())
        if token in EOS:
            break
        matcher.accept(token)
    assert time.process_time() - spent < 10


EXPLODING = [
    schema({"allOf": [{"multipleOf": prime} for prime in (3, 7, 11, 13, 17, 19, 23)],
            "type": "integer"}),
    schema({"allOf": [{"pattern": f"^.*a.{{{i}}}$"} for i in range(40)]}),
    lark("start: A\nA: " + " & ".join(f"/.*a.{{{i}}}/" for i in range(40))),
]  # fmt: skip


@pytest.mark.parametrize("grammar", EXPLODING, ids=range(len(EXPLODING)))
def test_a_grammar_that_would_compile_for_hours_is_refused(
    grammar: Grammar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_check, "SECONDS", 1.0)
    with pytest.raises(ValueError, match="does not compile within 1 s"):
        check(grammar)
    check(schema({"type": "object"}))  # and the next one finds a judge


def test_a_limit_met_on_the_way_is_told(grammars: Grammars) -> None:
    matcher = begin(grammars, regex("(.{0,5000}a.{0,5000}b){100}"))
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        logits = torch.randn(1, PADDED, generator=generator)
        apply(logits, [0], grammars.masks([matcher]).result())
        if matcher.error is not None:
            break
        matcher.accept(int(logits.argmax()))
    assert "too many" in (matcher.error or "")


def test_a_grammar_that_met_a_limit_starts_afresh(grammars: Grammars) -> None:
    grammar = schema({"type": "array", "items": {"type": "string", "pattern": ".*a.{200}"}})
    for seed in range(3):
        matcher = begin(grammars, grammar)
        generator = torch.Generator().manual_seed(seed)
        accepted = 0
        while matcher.error is None:
            logits = torch.randn(1, PADDED, generator=generator)
            logits[:, EOS] = -1e9
            logits[:, TOKENIZER.encode(']"').ids] = -1e8  # a string that does not end
            apply(logits, [0], grammars.masks([matcher]).result())
            matcher.accept(int(logits.argmax()))
            accepted += 1
        assert "too many states" in (matcher.error or "")
        assert accepted > 50


def test_a_model_without_end_or_tokenizer_says_so(tmp_path: Path) -> None:
    for directory, eos, message in (
        (EMBEDDED, (), "end-of-sequence"),
        (tmp_path, (0,), "tokenizer"),
    ):
        grammars = Grammars(directory, VOCAB, eos)
        with pytest.raises(ValueError, match=message):
            grammars.start(regex("a")).result()
        grammars.close()


def test_checking_needs_no_tensor_library() -> None:
    code = "import sys, penstock.engine.grammar; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_masks_follow_numpy_bit_for_bit(grammars: Grammars) -> None:
    matchers = [begin(grammars, regex(text)) for text in ("a+", "[0-9]*", "(?s).*")]
    masks = grammars.masks(matchers).result()
    bits = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little", count=PADDED)
    logits = torch.zeros(3, PADDED)
    apply(logits, [0, 1, 2], masks)
    assert np.array_equal(logits.isfinite().numpy(), bits.astype(bool))
