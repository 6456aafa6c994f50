"""What servers put into an event, or into a whole answer, in the words of each of them.

One set of fields for all: a server fills in those that it knows, and what
nobody needs is not read. docs/servers.md says who sends which.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

# Finish reasons by which servers say that they gave up.
ABORTED = ("abort", "aborted", "cancelled", "error")


class _Cached(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Reasoned(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """The server's own count, of the whole request."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Cached | None = None
    completion_tokens_details: _Reasoned | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek


class Timings(msgspec.Struct, gc=False):
    """llama.cpp, of one choice: prompt tokens found and computed, output tokens so far."""

    cache_n: int | None = None
    prompt_n: int | None = None
    predicted_n: int | None = None


class MetaInfo(msgspec.Struct, gc=False):
    """SGLang, of one choice, where it was asked for."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None  # text; an object from servers that do not stream it

    def text(self) -> str:
        arguments = self.arguments or ""
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode()
        return (self.name or "") + arguments


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function | None = None


class Delta(msgspec.Struct, gc=False):
    """What an event adds to a chat answer, or the whole message of one that was not streamed."""

    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None  # SGLang, llama.cpp, TGI, transformers
    reasoning: str | None = None  # vLLM, Ollama
    tool_calls: list[_ToolCall] | _ToolCall | None = None
    function_call: _Function | None = None  # the form before tool_calls

    def said(self) -> str:
        """What a user reads."""
        content = self.content
        if isinstance(content, list):
            return "".join(_part(part, "text") for part in content)
        return content or self.refusal or ""

    def unsaid(self) -> str:
        """Output that is no part of the answer's text: reasoning and tool calls."""
        thought = self.reasoning_content or self.reasoning or ""
        if isinstance(self.content, list):
            thought += "".join(_part(part, "thinking") for part in self.content)
        calls = self.tool_calls or []
        if not calls and self.function_call is None:
            return thought
        functions = [c.function for c in (calls if isinstance(calls, list) else [calls])]
        return thought + "".join(f.text() for f in [*functions, self.function_call] if f)


class Logprobs(msgspec.Struct, gc=False):
    """Log probabilities of an event's tokens."""

    tokens: list[Any] | None = None  # completions
    content: list[Any] | None = None  # chat

    def count(self) -> int | None:
        """How many tokens they are of."""
        return len(self.tokens or self.content or ()) or None


class Choice(msgspec.Struct, gc=False):
    """One choice's share of an event."""

    index: int | None = None
    text: str | None = None
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    token_ids: list[int] | None = None  # vLLM, penstock
    logprobs: Logprobs | None = None
    meta_info: MetaInfo | None = None


class Chunk(msgspec.Struct, gc=False):
    """One event's JSON, or a whole answer's."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    error: Any = None
    object: Any = None
    message: Any = None  # beside "object": "error", as SGLang and older vLLM have it

    def failure(self) -> str:
        """What went wrong on the server, where this says that something did."""
        return brief(self.error or self.message)


class _TextDelta(msgspec.Struct, gc=False):
    content: str
    refusal: None = None
    reasoning_content: None = None
    reasoning: None = None
    tool_calls: None = None
    function_call: None = None


class _TextChoice(msgspec.Struct, gc=False):
    delta: _TextDelta
    index: Literal[0] = 0
    text: None = None
    finish_reason: None = None
    token_ids: None = None
    logprobs: None = None
    meta_info: None = None


class _TextChunk(msgspec.Struct, gc=False):
    """A `Chunk` that holds nothing but text for choice 0, as most of them do."""

    choices: tuple[_TextChoice]
    usage: None = None
    timings: None = None
    error: None = None
    object: Literal["chat.completion.chunk"] | None = None


_decoder = msgspec.json.Decoder(Chunk)
read_chunk = _decoder.decode
read_chunks = _decoder.decode_lines  # of one line each
_read_texts = msgspec.json.Decoder(_TextChunk).decode_lines


def read_texts(lines: bytes) -> list[str]:
    """The text of each line's event, which may be empty.

    Raises `msgspec.DecodeError` where an event holds anything else that matters.
    """
    return [chunk.choices[0].delta.content for chunk in _read_texts(lines)]


def brief(error: Any) -> str:
    """The message of an OpenAI-style error, on one line."""
    message = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(message).split())[:200]


def _part(part: dict[str, Any], kind: str) -> str:
    """Text of a content part of this kind; Mistral nests parts under "thinking"."""
    value = part.get(kind) or ""
    if isinstance(value, list):
        return "".join(_part(inner, "text") for inner in value if isinstance(inner, dict))
    return str(value)
