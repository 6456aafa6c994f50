"""Function calls in a model's text: found as the text comes, and forced where asked."""

from __future__ import annotations

import json
import re
import secrets
from collections import deque
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, NoReturn

from penstock.engine.grammar import WHITESPACE
from penstock.engine.request import Grammar


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a family of models writes calls: JSON objects of a name and arguments.

    No marker contains its first character twice.
    """

    opener: str
    arguments: str  # the key of the arguments
    closer: str = ""
    array: bool = False  # one JSON array holds all calls
    bare: bool = False  # an answer, or what follows a call, may begin with the JSON itself
    id_prefix: str = "call_"
    id_digits: int = 24

    @property
    def markers(self) -> tuple[str, ...]:
        """Text around calls. Where it is a special token, decoding must show it."""
        return (self.opener, self.closer) if self.closer else (self.opener,)

    def new_id(self) -> str:
        """Draw an identifier for a call."""
        return self.id_prefix + secrets.token_hex(12)[: self.id_digits]


# Hermes and Qwen 2.5 and 3. The markers are tokens of their own, not special ones.
HERMES = ToolFormat("<tool_call>", "arguments", closer="</tool_call>")
# Llama 3.1 to 3.3. The opener is a special token, and most answers come without it.
LLAMA = ToolFormat("<|python_tag|>", "parameters", bare=True)
# Mistral up to tokenizer version 7. The opener is a special token; templates
# refuse an identifier that has not nine letters or digits.
MISTRAL = ToolFormat("[TOOL_CALLS]", "arguments", array=True, id_prefix="", id_digits=9)


def detect_format(template: str) -> ToolFormat | None:
    """The format that a chat template (jinja2 source) asks for; None if it is no known one."""
    said = template.replace("\\", "")  # quotes may be escaped, within a jinja string
    if "tools" not in said:
        return None
    if "[TOOL_CALLS]" in said:
        return None if "[ARGS]" in said else MISTRAL  # later versions write name[ARGS]{...}
    if "<tool_call>" in said:
        # Others put XML between the same markers.
        return HERMES if '"arguments"' in said and "<function=" not in said else None
    llama = "ipython" in said and '{"name":' in said and '"parameters":' in said
    return LLAMA if llama else None


@dataclass(frozen=True, slots=True)
class Text:
    """Text of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The model calls function `name`; `index` counts the calls of one choice from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next part of the arguments of call `index`, as the model wrote it."""

    index: int
    text: str


Event = Text | CallStart | CallArguments


class ToolCalls:
    """Tells calls of the functions `names` from other text, while the text comes.

    A call is one once its name is known and its arguments begin; what stands
    before is held back until then. Anything else, such as a call of an unknown
    function or broken JSON before the arguments, is text, to its last
    character. Arguments are passed on as written up to the brace that closes
    them. White space around calls belongs to the format and is dropped.

    How the text was cut does not matter.
    """

    def __init__(self, format: ToolFormat, names: Collection[str]) -> None:
        self._format = format
        self._names = [f'"{name}"' for name in names]
        # Words and the white space between them, none with the first character of a call.
        self._plain = re.compile(rf"(?:\s*[^\s{{;{re.escape(format.opener[0])}]+)+")
        self._events: list[Event] = []
        self._held: list[str] = []  # read, but neither shown nor part of a call yet
        self._again: deque[str] = deque()  # to be read again
        self._calls = 0
        self._fresh = True  # no text since the beginning or the last call
        self._outside = True  # before a call's opener
        self._inside = False  # from the beginning of a call's arguments to its last brace
        self._reader = self._read()
        next(self._reader)

    def push(self, text: str) -> list[Event]:
        """Take more text; return what is certain now."""
        at = 0
        while at < len(text):
            # Most text is far from any call: take it at once.
            if self._outside and not self._held and (plain := self._plain.match(text, at)):
                self._show(plain[0])
                at = plain.end()
            else:
                self._reader.send(text[at])
                at += 1
        return self._take()

    def flush(self) -> list[Event]:
        """End the text: what only looked like the beginning of a call is text after all."""
        closing = "]" * self._format.array + self._format.closer
        held = "".join("".join(self._held).split())
        after_call = self._calls > 0 and self._fresh and closing.startswith(held)
        if not self._inside and not after_call:
            self._show("".join(self._held))
        self._held.clear()
        return self._take()

    def _take(self) -> list[Event]:
        events, self._events = list(_merged(self._events)), []
        return events

    def _show(self, text: str) -> None:
        if self._calls and self._fresh:
            text = text.lstrip()
        if text:
            self._events.append(Text(text))
            self._fresh = False

    # The reader asks for a character with a bare `yield`, so that a description
    # of the format, read from top to bottom, can wait anywhere within it.

    def _read(self) -> Generator[None, str, NoReturn]:
        while True:
            calls = self._calls
            try:
                self._outside = True
                yield from self._opener()
                self._outside = False
                yield from self._one_or_more_calls()
            except _Mismatch:
                self._inside = False
                # A call may begin at any later character, but not at the first.
                if self._calls == calls:
                    first = next(i for i, c in enumerate(self._held) if not c.isspace())
                    self._show("".join(self._held[: first + 1]))
                    del self._held[: first + 1]
                self._again.extendleft(reversed(self._held))
            self._held.clear()

    def _opener(self) -> Generator[None, str, None]:
        yield from self._character()  # text may be shown while we wait for it
        self._unread()
        options = [self._format.opener]
        if self._format.bare and self._fresh:
            options += ["{", ";"] if self._calls else ["{"]
        word = yield from self._word(*options)
        if word == ";":
            word = yield from self._word("{")
        if word == "{":
            self._unread()

    def _one_or_more_calls(self) -> Generator[None, str, None]:
        if self._format.array:
            yield from self._word("[")
            while (yield from self._call_then(",", "]")) == ",":
                pass
        else:
            yield from self._call()
        if self._format.closer:
            yield from self._word(self._format.closer)

    def _call_then(self, *options: str) -> Generator[None, str, str]:
        yield from self._call()
        return (yield from self._word(*options))

    def _call(self) -> Generator[None, str, None]:
        yield from self._word("{")
        if (yield from self._word('"name"', '"type"')) == '"type"':
            for word in (":", '"function"', ",", '"name"'):
                yield from self._word(word)
        yield from self._word(":")
        name = yield from self._word(*self._names)
        if (yield from self._word(",", "}")) == "}":
            self._start(name)
            self._events.append(CallArguments(self._calls - 1, "{}"))
            self._end()
            return
        yield from self._word('"arguments"', '"parameters"')
        yield from self._word(":")
        yield from self._word("{")
        self._unread()
        self._start(name)
        yield from self._arguments()
        if (yield from self._word(",", "}")) == ",":  # Mistral may give an identifier
            yield from self._word('"id"')
            yield from self._word(":")
            yield from self._word('"')
            while (yield from self._character()) != '"':
                pass
            yield from self._word("}")
        self._end()

    def _start(self, name: str) -> None:
        self._held.clear()
        self._events.append(CallStart(self._calls, self._format.new_id(), name[1:-1]))
        self._calls += 1
        self._fresh = self._inside = True

    def _end(self) -> None:
        self._held.clear()
        self._inside = False

    def _arguments(self) -> Generator[None, str, None]:
        depth = 0
        quoted = escaped = False
        while True:
            character = yield from self._character()
            self._held.clear()
            self._events.append(CallArguments(self._calls - 1, character))
            if escaped:
                escaped = False
            elif quoted:
                escaped = character == "\\"
                quoted = character != '"'
            elif character == '"':
                quoted = True
            elif character in "{[":
                depth += 1
            elif character in "}]":
                depth -= 1
                if depth == 0:
                    return

    def _word(self, *options: str) -> Generator[None, str, str]:
        """Read white space, then one of `options`, none of which begins another."""
        read = ""
        while read not in options:
            character = yield from self._character()
            if read or not character.isspace():
                read += character
            if not any(option.startswith(read) for option in options):
                raise _Mismatch
        return read

    def _character(self) -> Generator[None, str, str]:
        character = self._again.popleft() if self._again else (yield)
        self._held.append(character)
        return character

    def _unread(self) -> None:
        self._again.appendleft(self._held.pop())


class _Mismatch(Exception):
    """What was read is no call."""


def _merged(events: Iterable[Event]) -> Iterator[Event]:
    for _, run in groupby(events, key=lambda event: (type(event), getattr(event, "index", None))):
        first, *rest = run
        if isinstance(first, CallStart):
            yield first
        else:
            texts = [
                first.text,
                *(event.text for event in rest if not isinstance(event, CallStart)),
            ]
            yield replace(first, text="".join(texts))


Choice = Literal["auto", "required"] | Mapping[str, Any]


def grammar_for(
    format: ToolFormat,
    tools: Sequence[Mapping[str, Any]],
    choice: Choice,
    token_id: Callable[[str], int | None],
    *,
    parallel: bool = True,
) -> Grammar:
    """What the output must match so that its calls are of `tools`, with fitting arguments.

    `tools` and `choice` are in OpenAI's form. With "auto" there may be text, then
    calls, whose arguments follow the function's JSON schema where it is strict.
    With "required" there are calls only, and all schemas are followed; several
    if `parallel` and the format has a way to say it. A function that is named is
    called once. `token_id` gives the id of a marker that is one token, else None.

    Raises `ValueError` when `choice` names a function that `tools` lacks.
    """
    if isinstance(choice, Mapping):
        name = choice["function"]["name"]
        tools = [tool for tool in tools if tool["function"]["name"] == name]
        if not tools:
            raise ValueError(f"tool_choice: no function {name!r} is among the tools.")
        parallel = False

    def marker(text: str) -> str:
        id_ = token_id(text)
        return _quoted(text) if id_ is None else f"<[{id_}]>"

    opener = marker(format.opener)
    rules = ["call: " + " | ".join(f"call_{i}" for i in range(len(tools)))]
    for i, tool in enumerate(tools):
        begin = f'{{"name": "{tool["function"]["name"]}", "{format.arguments}": '
        exact = choice != "auto" or tool["function"].get("strict", False)
        # A schema is a document of its own, so that references in it hold.
        schema = json.loads(arguments_grammar(tool).text) if exact else {"type": "object"}
        schema["x-guidance"] = {"whitespace_pattern": WHITESPACE}
        rules += [f'call_{i}: {_quoted(begin)} arguments_{i} "}}"']
        rules += [f"arguments_{i}: %json {json.dumps(schema)}"]
    # What follows the first opener.
    if format.array:
        rules.append('rest: / ?/ "[" call' + (' (", " call)*' if parallel else "") + ' "]"')
    elif format.closer:
        rules.append(f'block: "\\n" call "\\n" {marker(format.closer)}')
        rules.append("rest: block" + (f' ("\\n" {opener} block)*' if parallel else ""))
    else:
        rules.append("rest: call")
    rules += _start(format, opener, choice)
    return Grammar(kind="lark", text="\n".join(rules))


def arguments_grammar(tool: Mapping[str, Any]) -> Grammar:
    """What the arguments of one tool, in OpenAI's form, must match."""
    # Without a schema a function has no parameters.
    schema = tool["function"].get("parameters", {"additionalProperties": False})
    return Grammar(kind="json_schema", text=json.dumps({"type": "object", **schema}))


def _start(format: ToolFormat, opener: str, choice: Choice) -> list[str]:
    if choice != "auto":
        return ["start: rest" if format.bare else f"start: {opener} rest"]
    # An answer that begins as a call does must be one.
    first = r"[^\s{]" if format.bare else r"(.|\n)"
    rules = [rf"TEXT: /\s*({first}(.|\n)*)?/"]
    if opener.startswith("<["):  # no text contains a token of its own
        return [*rules, f"start: TEXT ({opener} rest)?" + " | rest" * format.bare]
    return [
        *rules,
        "start: before rest | TEXT" + " | rest" * format.bare,
        f"before[lazy]: TEXT {opener}",
    ]


def _quoted(text: str) -> str:
    return json.dumps(text)  # Lark's strings are JSON's
