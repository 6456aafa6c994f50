"""Function calls are found in any text, however it is cut, and forced where asked."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import llguidance
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken

from penstock.engine.model.template import ChatTemplate
from penstock.engine.model.tokenizer import Tokenizer
from penstock.serve.tools import (
    HERMES,
    LLAMA,
    MISTRAL,
    CallArguments,
    CallStart,
    Event,
    Text,
    ToolCalls,
    ToolFormat,
    detect_format,
    grammar_for,
)
from tests.engine.model import chat_templates
from tests.engine.model.test_tokenizer import byte_level

FORMATS = {"hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL}
NAMES = ["get", "get_weather", "now-1"]

Said = list[str | tuple[str, str]]  # text, or a call's name and arguments


def said(events: list[Event]) -> Said:
    """What the events say together, in order; the identifiers, which are random, apart."""
    found: Said = []
    for event in events:
        match event:
            case Text(text):
                if found and isinstance(found[-1], str):
                    text = found.pop() + text
                found.append(text)
            case CallStart(index, id_, name):
                assert index == sum(isinstance(it, tuple) for it in found)
                assert id_
                found.append((name, ""))
            case CallArguments(index, text):
                assert index == sum(isinstance(it, tuple) for it in found) - 1
                name, before = found.pop()
                found.append((name, before + text))
    return found


def read(format: ToolFormat, *parts: str, names: list[str] = NAMES) -> Said:
    calls = ToolCalls(format, names)
    events = [event for part in parts for event in calls.push(part)]
    return said(events + calls.flush())


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


# Values with everything that could be taken for the end of something.
values = st.recursive(
    st.none()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(
        ["}", '"}', '\\"', "\\", "</tool_call>", "[TOOL_CALLS] [{", "]", "{", "日👩‍👧"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
arguments = st.dictionaries(st.text(max_size=4), values, max_size=3)
spelled = st.builds(
    lambda value, ascii, indent: json.dumps(value, ensure_ascii=ascii, indent=indent),
    arguments,
    st.booleans(),
    st.sampled_from([None, 0, 2]),
)
made_calls = st.tuples(st.sampled_from(NAMES), spelled)
fragments = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<tool_", "call>", "<", "[TOOL_CALLS]", "[TOOL", "["),
        *("<|python_tag|>", "{", "}", "]", ",", ";", '"name"', ":", '"get"', '"nope"', '"', "\\"),
        *('"arguments"', '"parameters"', '{"name": "get", "arguments": {}}', '{"a": "}"}', "{}"),
        *('"type"', '"function"', '"id": "x"', " ", "\n", "text", "日"),
    ]
)
messes = st.lists(fragments, max_size=25).map("".join)
places = st.lists(st.integers(0, 10**6), max_size=8)


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@given(mess=messes, places=places)
def test_how_the_text_is_cut_does_not_matter(format: ToolFormat, mess: str, places: list[int]):
    whole = read(format, mess)
    assert read(format, *cut(mess, places)) == whole
    assert read(format, *mess) == whole


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@given(mess=messes)
def test_what_is_no_call_is_text_to_its_last_character(format: ToolFormat, mess: str):
    assert "".join(read(format, mess, names=[])) == mess
    rest = mess
    for part in read(format, mess):  # and beside calls, all text is there, in order
        shown = part if isinstance(part, str) else part[1] if part[1] in mess else "}"
        assert shown in rest
        rest = rest[rest.index(shown) + len(shown) :]


def write(format: ToolFormat, calls: list[tuple[str, str]], space: str) -> str:
    objects = [
        f'{{"name":{space}"{name}", "{format.arguments}": {text}{space}}}' for name, text in calls
    ]
    if format is MISTRAL:
        objects = [o[:-1] + ', "id": "abcdefghi"}' if i % 2 else o for i, o in enumerate(objects)]
        return f"[TOOL_CALLS]{space}[" + f",{space}".join(objects) + "]"
    if format is LLAMA:
        return "<|python_tag|>" * (space == " ") + f"{space};{space}".join(objects)
    return "\n".join(f"<tool_call>{space}{o}{space}</tool_call>" for o in objects)


plain = st.text(st.characters(exclude_characters="<[{", exclude_categories=["Cs"]), max_size=20)


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@given(
    turns=st.lists(st.tuples(plain, st.lists(made_calls, min_size=1, max_size=3)), max_size=3),
    end=plain,
    space=st.sampled_from(["", " ", "\n", "\r\n  "]),
    places=places,
)
@example(turns=[("", [("get", '{"a": "\\\\"}')] * 2)], end="", space="", places=[])
def test_calls_among_text(format: ToolFormat, turns: Any, end: str, space: str, places: list[int]):
    if format is LLAMA:  # without a marker only what stands first, or after a call, is a call
        turns = [("", calls) for _, calls in turns]
    text = "".join(before + write(format, calls, space) for before, calls in turns) + end
    expected: Said = []
    for before, calls in turns:
        expected += [before.strip() if expected else before.rstrip(), *calls]
    expected.append(end.lstrip() if turns else end)
    assert read(format, *cut(text, places)) == [it for it in expected if it]


HEAD = '<tool_call>\n{"name": "get_weather", "arguments": '


def test_arguments_come_as_they_are_written_and_a_call_only_when_it_is_one():
    calls = ToolCalls(HERMES, NAMES)
    assert calls.push("Let me see. ") == [Text("Let me see.")]
    assert calls.push("\n" + HEAD) == []
    start, arguments = calls.push('{"ci')
    assert (start.index, start.name, arguments) == (0, "get_weather", CallArguments(0, '{"ci'))
    assert calls.push('ty": "Z') == [CallArguments(0, 'ty": "Z')]
    assert calls.push('ürich}"}') == [CallArguments(0, 'ürich}"}')]
    assert calls.push("}\n</tool_") == []
    assert calls.push("call>\n") == []
    assert calls.push("Well") == [Text("Well")]
    assert calls.flush() == []


def test_only_what_may_become_a_call_is_held_back():
    calls = ToolCalls(HERMES, NAMES)
    assert calls.push("a < b <tool_c") == [Text("a < b")]
    assert calls.push("ase>") == [Text(" <tool_case>")]
    assert calls.push('<tool_call>{"name": "get_t') == [Text('<tool_call>{"name": "get_t')]


@pytest.mark.parametrize(
    ("format", "text"),
    [
        (HERMES, '<tool_call>{"name": "nope", "arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"name": "get", "arguments": "{}"}</tool_call>'),
        (HERMES, '<tool_call>{"name": "get", "arguments": null}</tool_call>'),
        (HERMES, '<tool_call>{"name": "get" "arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>["name", "get"]</tool_call>'),
        (HERMES, '<tool_call>{"name": "get"'),
        (HERMES, ' {"name": "get", "arguments": {}}\n'),
        (HERMES, "<tool_call>\n"),
        (LLAMA, 'So: {"name": "get", "parameters": {}}'),
        (LLAMA, '{"name": "Ada", "parameters": {}}'),
        (LLAMA, '<|python_tag|>brave_search.call(query="x")'),
        (LLAMA, "; {"),
        (MISTRAL, '[{"name": "get", "arguments": {}}]'),
        (MISTRAL, '[TOOL_CALLS] {"name": "get", "arguments": {}}'),
        (MISTRAL, "[TOOL_CALLS] []"),
    ],
)
def test_what_only_looks_like_a_call_is_text(format: ToolFormat, text: str):
    assert read(format, *text) == [text]


@pytest.mark.parametrize(
    ("format", "text", "expected"),
    [
        (HERMES, HEAD + '{"a": [1, "', [("get_weather", '{"a": [1, "')]),
        (HERMES, HEAD + '{"a": 1}', [("get_weather", '{"a": 1}')]),
        (HERMES, HEAD + "{}}\n</tool_ca", [("get_weather", "{}")]),
        (HERMES, '<tool_call>{"name": "get"}</tool_call>', [("get", "{}")]),
        (HERMES, f"<tool_call>{HEAD}{{}}}}", ["<tool_call>", ("get_weather", "{}")]),
        (HERMES, f"{HEAD}{{}}}}{HEAD}{{}}}} end", [*[("get_weather", "{}")] * 2, "end"]),
        (HERMES, HEAD + "{} what }</tool_call>", [("get_weather", "{}"), "what }</tool_call>"]),
        (HERMES, HEAD + "{} what <tool_c", [("get_weather", "{}"), "what <tool_c"]),
        (MISTRAL, '[TOOL_CALLS][{"name": "get", "arguments": {}, "id": "abc', [("get", "{}")]),
        (MISTRAL, '[TOOL_CALLS][{"name": "get", "arguments": {}}', [("get", "{}")]),
        (LLAMA, '{"name": "get", "parameters": {}}; no', [("get", "{}"), "; no"]),
        (
            LLAMA,
            '{"type": "function", "name": "get", "parameters": {"a": 1}}',
            [("get", '{"a": 1}')],
        ),
    ],
)
def test_calls_cut_short_or_followed_by_something_else(format: ToolFormat, text: str, expected):
    assert read(format, text) == read(format, *text) == expected


def test_long_messes_take_time_in_proportion():
    mess = ('<tool_call>{"name": "get", ' + " " * 500) * 400
    assert "".join(read(HERMES, mess)) == mess  # the timeout is the test


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"enum": ["Zürich", 'the "}" city']},
                    "days": {"$ref": "#/$defs/days"},
                },
                "required": ["city", "days"],
                "additionalProperties": False,
                "$defs": {"days": {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2}},
            },
        },
    },
    {"type": "function", "function": {"name": "get", "strict": False}},
]
NAMED = {"type": "function", "function": {"name": "get"}}


def with_markers(special: bool) -> Tokenizer:
    inner = byte_level()
    markers = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>"]
    inner.add_tokens([AddedToken(marker, special=special) for marker in markers])
    return Tokenizer(inner)


TOKENIZERS = {
    "special": with_markers(special=True),
    "own tokens": with_markers(special=False),
    "plain text": Tokenizer(byte_level()),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("choice", ["auto", "required", NAMED], ids=["auto", "required", "named"])
def test_whatever_the_grammar_allows_is_read_as_calls(kind: str, format: ToolFormat, choice: Any):
    tokenizer = TOKENIZERS[kind]
    tools = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]
    text = grammar_for(format, tools, choice, tokenizer.token_id).text
    vocabulary = llguidance.LLTokenizer(tokenizer._inner.to_str(), eos_token=1)
    grammar = llguidance.LLMatcher.grammar_from_lark(text)
    seen: set[int] = set()
    for seed in range(15):
        matcher = llguidance.LLMatcher(vocabulary, grammar)
        before, lead = "", ""
        if choice == "auto":
            bare = format.bare and seed % 2
            before = "" if bare or seed % 3 else "Well, [so] <be> it."
            lead = "{" if bare else before + format.opener
        begun = tokenizer._inner.encode(lead, add_special_tokens=False).ids
        assert matcher.consume_tokens(begun)
        ids = begun + walk(matcher, random.Random(seed))
        stream = tokenizer.stream(keep=format.markers)
        calls = ToolCalls(format, ["get_weather", "get"])
        found = said([*calls.push(stream.push(ids) + stream.flush()), *calls.flush()])
        if before:
            assert found.pop(0) == before
        assert found
        assert all(isinstance(it, tuple) for it in found)
        seen.add(len(found))
        for name, arguments in found:
            given = json.loads(arguments)
            if name == "get_weather" and choice != NAMED:
                assert given["city"] in ("Zürich", 'the "}" city')
                assert set(given["days"]) <= {1, 2}
            else:
                assert (name, given) == ("get", {})
    assert (max(seen) > 1) == (choice != NAMED and format is not LLAMA)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_strict_arguments_where_text_is_allowed_too(kind: str, format: ToolFormat):
    tokenizer = TOKENIZERS[kind]
    text = grammar_for(format, TOOLS, "auto", tokenizer.token_id).text
    vocabulary = llguidance.LLTokenizer(tokenizer._inner.to_str(), eos_token=1)
    good = write_strict(format, '{"city": "Zürich", "days": [1, 2]}')
    for answer, allowed in (
        ("", True),
        (" Plain <text> [with] 日本, and\nlines.", True),
        (good, True),
        (f"Well. {good}" if not format.bare else good, True),
        (write_strict(format, '{"city": "Bern", "days": []}'), False),
        (good.replace("get_weather", "get"), True),  # which is not strict
        (good.replace("get_weather", "set"), False),
        (format.opener + " no call", False),
    ):
        ids = tokenizer._inner.encode(answer, add_special_tokens=False).ids
        matcher = llguidance.LLMatcher(vocabulary, llguidance.LLMatcher.grammar_from_lark(text))
        taken = matcher.validate_tokens(ids)
        assert (taken == len(ids)) == allowed, answer
        matcher.consume_tokens(ids[:taken])
        assert matcher.is_accepting() or not allowed


def write_strict(format: ToolFormat, arguments: str) -> str:
    call = f'{{"name": "get_weather", "{format.arguments}": {arguments}}}'
    if format.array:
        return f"{format.opener}[{call}]"
    return f"{format.opener}\n{call}\n{format.closer}" if format.closer else call


def walk(matcher: llguidance.LLMatcher, chance: random.Random) -> list[int]:
    """Take tokens at random among those the grammar allows; the end as soon as it may be."""
    ids: list[int] = []
    while not (matcher.is_accepting() and chance.random() < 0.5):
        assert not matcher.get_error()
        allowed = [id_ for id_, bias in enumerate(matcher.compute_logit_bias()) if bias and id_ > 1]
        if not allowed:
            break
        assert len(ids) < 2000
        ids.append(chance.choice(allowed))
        matcher.consume_token(ids[-1])
    assert matcher.is_accepting()
    return ids


def test_one_call_where_several_are_not_wanted():
    ids = [grammar_for(HERMES, TOOLS, "required", lambda _: None, parallel=p).text for p in (0, 1)]
    assert ["block)*" in text for text in ids] == [False, True]


def test_an_unknown_function_cannot_be_forced():
    choice = {"type": "function", "function": {"name": "nope"}}
    with pytest.raises(ValueError, match="tool_choice: no function 'nope' is among the tools"):
        grammar_for(HERMES, TOOLS, choice, lambda _: None)


@pytest.mark.parametrize("name", FORMATS)
def test_templates_tell_the_format_and_write_calls_that_we_read(name: str):
    source = {"hermes": chat_templates.QWEN}.get(name) or getattr(chat_templates, name.upper())
    format = FORMATS[name]
    assert detect_format(source) is format
    given = {"city": 'Zürich "}"', "days": [1]}
    call = {"id": format.new_id(), "type": "function"}
    call["function"] = {"name": "get", "arguments": given}
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call]}]
    template = ChatTemplate(source, {"bos_token": "", "eos_token": "<end>"})
    text = template.render(messages, None, {})
    ((_, arguments),) = (it for it in read(format, *answer(text)) if isinstance(it, tuple))
    assert json.loads(arguments) == given


def answer(text: str) -> str:
    """The assistant's first turn, from what its header ends with."""
    return text.partition("assistant<|end_header_id|>\n\n")[2] or text


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{{ tools }} <tool_call> <function=name> <parameter=x>",
        "{{ tools }} [TOOL_CALLS]name[ARGS]{}",
        "{{ tools }} some format that nobody knows",
    ],
)
def test_formats_that_are_not_known(source: str):
    assert detect_format(source) is None


def test_identifiers_suit_the_templates():
    assert MISTRAL.new_id().isalnum()
    assert len(MISTRAL.new_id()) == 9
    assert HERMES.new_id().startswith("call_")
    assert HERMES.new_id() != HERMES.new_id()
