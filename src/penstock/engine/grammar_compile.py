"""From the text of a grammar to an llguidance matcher at its beginning."""

from __future__ import annotations

import re

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from penstock.engine.request import Grammar

# What one grammar may cost, of whoever sends it: some 50 ms for a mask on one core
# and 80 MB. A thousandth of it is usual. They bound most of compiling, not all of it.
LIMITS = LLParserLimits(
    initial_lexer_fuel=200_000,
    step_lexer_fuel=50_000,
    step_max_items=10_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)

# Between two tokens of JSON: nothing, one space, or a new line with its indent. Where
# any run of whitespace is allowed, a model in doubt writes spaces until max_tokens.
WHITESPACE = r" |\r?\n[ \t]{0,64}"

NAMES = {"json_schema": "JSON schema", "regex": "regular expression", "lark": "Lark grammar"}


def compile_grammar(tokenizer: LLTokenizer, grammar: Grammar) -> LLMatcher:
    """A matcher at the beginning, its first mask already computed.

    Raises `ValueError` where llguidance refuses any of it, ignores any of it, or
    finds that nothing can match.
    """
    try:
        matcher = LLMatcher(tokenizer, _source(grammar), log_level=0, limits=LIMITS)
    except ValueError as error:
        raise refusal(grammar, str(error)) from error
    warnings = matcher.get_grammar_warnings()
    if not matcher.is_error():
        matcher.compute_bitmask()  # finds what matches nothing, and warms the lexer for copies
    if matcher.is_error() or warnings:
        raise refusal(grammar, matcher.get_error() or warnings[0])
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


def refusal(grammar: Grammar, message: str) -> ValueError:
    """The error that says why a grammar is not taken."""
    return ValueError(f"the {NAMES[grammar.kind]} is refused: {said(message)}")


def said(message: str) -> str:
    """The gist of llguidance's message, which draws pictures and shows its own state."""
    if message.startswith("NoExtension"):
        return "nothing can match it"
    gist = re.search(r"^error: (.+)$", message, re.MULTILINE)
    return (gist[1] if gist else message.split("\n", 1)[0]).strip()[:300]
