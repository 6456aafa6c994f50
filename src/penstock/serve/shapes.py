"""How each of the two APIs words its answers: from pieces of text to choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import UNSET, UnsetType

from penstock.serve.logprobs import ChatLogprobs, PromptLogprobs, Speller
from penstock.serve.pieces import Piece
from penstock.serve.protocol import ChatBody, CompletionBody, GenerateBody
from penstock.serve.replies import (
    CalledFunction,
    DeltaChoice,
    Message,
    MessageChoice,
    Reply,
    TextChoice,
    Timings,
    ToolCall,
)
from penstock.serve.tools import CallStart, Event, Text, ToolCalls, ToolFormat


class Shape(Protocol):
    """How one API words the answer to one request."""

    id_prefix: str
    prompt_field: str  # of the body: what the engine calls the prompt
    continues: bool  # whether the text goes on from the prompt's
    kept_tokens: Sequence[str]  # special tokens that are shown in the text
    whole_object: str
    chunk_object: str

    def whole(self, piece: Piece) -> Any:
        """Return a choice of an answer that is not streamed; `piece` is all of it."""
        ...

    def chunk(self, piece: Piece) -> Any | None:
        """Return what is new of a choice, or None if there is nothing to show yet."""
        ...

    def add_prompt_logprobs(self, reply: Reply[Any], prompts: list[PromptLogprobs]) -> None:
        """Put those of each prompt where the API has them."""
        ...


class CompletionShape:
    """`/v1/completions`."""

    id_prefix = "cmpl-"
    prompt_field = "prompt"
    kept_tokens: Sequence[str] = ()
    whole_object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, body: CompletionBody, speller: Speller) -> None:
        self._body = body
        self._speller = speller
        self.continues = not body.echo

    def whole(self, piece: Piece) -> TextChoice:
        """See `Shape`."""
        return self.chunk(piece)

    def chunk(self, piece: Piece) -> TextChoice:
        """See `Shape`."""
        choice = TextChoice(piece.text, piece.finish_reason, piece.index)
        if self._body.logprobs is not None:
            choice.logprobs = self._speller.completion(piece.spoken, self._body.logprobs)
        choice.timings = _timings(self._body, piece)
        return choice

    def add_prompt_logprobs(self, reply: Reply[TextChoice], prompts: list[PromptLogprobs]) -> None:
        """See `Shape`."""
        for choice in reply.choices:
            choice.prompt_logprobs = prompts[choice.index // self._body.n]


class ChatShape:
    """`/v1/chat/completions`. With a `format`, calls of the tools offered are told from text."""

    id_prefix = "chatcmpl-"
    prompt_field = "messages"
    continues = False
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, body: ChatBody, speller: Speller, format: ToolFormat | None) -> None:
        self._body = body
        self._speller = speller
        self._format = format
        self.kept_tokens: Sequence[str] = () if format is None else format.markers
        self._choices: dict[int, ToolCalls | None] = {}  # those that have begun
        self._called: set[int] = set()  # those with a call

    def whole(self, piece: Piece) -> MessageChoice:
        """See `Shape`."""
        message, finish = self._message(piece)
        message.role = "assistant"
        if message.content is UNSET:
            message.content = None if message.tool_calls else ""
        for call in message.tool_calls or ():
            call.index = UNSET
        return MessageChoice(
            message, finish, piece.index, self._logprobs(piece), _timings(self._body, piece)
        )

    def chunk(self, piece: Piece) -> DeltaChoice | None:
        """See `Shape`. The role comes with the first text."""
        first = piece.index not in self._choices
        delta, finish = self._message(piece)
        if first:
            delta.role = "assistant"
        if delta == Message() and finish is None and not piece.spoken:
            return None
        return DeltaChoice(
            delta, finish, piece.index, self._logprobs(piece), _timings(self._body, piece)
        )

    def add_prompt_logprobs(self, reply: Reply[Any], prompts: list[PromptLogprobs]) -> None:
        """See `Shape`. A chat has one prompt."""
        (reply.prompt_logprobs,) = prompts

    def _message(self, piece: Piece) -> tuple[Message, str | None]:
        if self._format is None:
            self._choices[piece.index] = None
            return Message(content=piece.text), piece.finish_reason
        calls = self._choices.get(piece.index)
        if calls is None:
            names = [tool.function.name for tool in self._body.tools]
            calls = self._choices[piece.index] = ToolCalls(self._format, names)
        events = calls.push(piece.text)
        if piece.finish_reason is not None:
            events += calls.flush()
        message = self._of_events(events)
        if message.tool_calls:
            self._called.add(piece.index)
        if piece.finish_reason == "stop" and piece.index in self._called:
            return message, "tool_calls"
        return message, piece.finish_reason

    def _of_events(self, events: list[Event]) -> Message:
        texts: list[str] = []
        calls: dict[int, ToolCall] = {}
        for event in events:
            if isinstance(event, Text):
                texts.append(event.text)
            elif isinstance(event, CallStart):
                function = CalledFunction("", event.name)
                calls[event.index] = ToolCall(function, event.id, "function", event.index)
            else:
                call = calls.setdefault(
                    event.index, ToolCall(CalledFunction(""), index=event.index)
                )
                call.function.arguments += event.text
        message = Message()
        if texts:
            message.content = "".join(texts)
        if calls:
            message.tool_calls = list(calls.values())
        return message

    def _logprobs(self, piece: Piece) -> ChatLogprobs | None:
        top = self._body.shown_logprobs
        return None if top is None else self._speller.chat(piece.spoken, top)


def _timings(body: GenerateBody, piece: Piece) -> Timings | UnsetType | None:
    if not body.include_timings:
        return UNSET
    return None if piece.timing is None else Timings.of(piece.timing, piece.cached_tokens)
