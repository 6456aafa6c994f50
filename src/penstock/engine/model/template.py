"""A checkpoint's chat template: from messages to the text of a prompt."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What a template may take: far more than a conversation of any size needs.
MAX_SECONDS = 5.0  # of this thread's processor time
MAX_CHARACTERS = 50_000_000

# Set by us; a request cannot.
_OURS = ("messages", "tools", "add_generation_prompt")


class ChatTemplate:
    """A jinja2 template, in the environment that transformers gives it.

    It runs in a sandbox: it reaches no attribute that leads to Python's
    insides, changes none of its arguments, reads no file, and its loops and
    calls end within `MAX_SECONDS`. Its memory is not bounded: a checkpoint that
    is not trusted belongs in a container with a limit.

    Raises `ValueError` for a template that cannot be read.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        environment = _Environment()
        try:
            self._template = environment.from_string(source)
            self._variables = meta.find_undeclared_variables(environment.parse(source))
        except (TemplateError, RecursionError) as error:
            raise ValueError(f"the chat template cannot be read: {error}") from error
        self._special_tokens = special_tokens
        self._knows_developer = "developer" in source
        self.source = source

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> str:
        """Return the text of a conversation, up to where the assistant is to speak.

        Raises `ValueError` when the template refuses the messages, or does not
        mention the tools or one of the variables it is given.
        """
        if tools is not None and "tools" not in self._variables:
            raise ValueError("tools: this model's chat template has no place for them.")
        for name in variables:
            if name in _OURS or name not in self._variables:
                raise ValueError(f"{name}: this model's chat template has no such variable to set.")
        given = {
            "documents": None,  # templates test it, and tools, against none
            **self._special_tokens,
            **variables,
            "messages": [self._as_expected(i, message) for i, message in enumerate(messages)],
            "tools": tools,
            "add_generation_prompt": True,
        }
        _deadline.set(time.thread_time() + MAX_SECONDS)
        try:
            return _joined(self._template.generate(given))
        except Exception as error:  # a template may do anything with what it did not expect
            raise ValueError(f"the chat template refuses these messages: {error}") from error

    def _as_expected(self, at: int, message: Mapping[str, Any]) -> dict[str, Any]:
        """Make of OpenAI's message what templates read: a system role, arguments as objects."""
        message = dict(message)
        if message.get("role") == "developer" and not self._knows_developer:
            message["role"] = "system"  # as OpenAI's older models called it
        if message.get("tool_calls"):
            field = f"messages[{at}].tool_calls"
            message["tool_calls"] = [
                _with_object(call, f"{field}[{i}].function.arguments")
                for i, call in enumerate(message["tool_calls"])
            ]
        return message


def _with_object(call: Mapping[str, Any], field: str) -> dict[str, Any]:
    function = call["function"]
    arguments = function["arguments"]
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise ValueError(f"{field} is not JSON: {error}.") from error
    if not isinstance(arguments, dict):
        raise ValueError(f"{field} must be a JSON object.")
    return {**call, "function": {**function, "arguments": arguments}}


def _joined(pieces: Iterable[str]) -> str:
    found, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_CHARACTERS:
            raise TemplateError(f"its text exceeds {MAX_CHARACTERS:,} characters.")
        found.append(piece)
    return "".join(found)


_deadline: ContextVar[float] = ContextVar("of the rendering under way")


def _check_deadline() -> None:
    if time.thread_time() > _deadline.get():
        raise TemplateError(f"it takes longer than {MAX_SECONDS:g} s.")


def _bounded(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _check_deadline()
        yield value


class _Environment(ImmutableSandboxedEnvironment):
    # Operators that make much of little, in one step that no deadline can stop.
    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        self.filters["tojson"] = _tojson
        self.filters["_bounded"] = _bounded
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "_bounded", [], [], None, None, lineno=loop.lineno)
        return tree

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _check_deadline()
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not all(isinstance(it, int | float) for it in (left, right)):
            raise TemplateError("only numbers can be multiplied, and nothing has powers.")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """`{% generation %}` marks what to train on. Here it is a block like any other."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(
            parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
        )


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own would escape for HTML.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
