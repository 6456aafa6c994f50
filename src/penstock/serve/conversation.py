"""The messages and tools of a chat, as clients send them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from penstock.serve.fields import Part, Text, wrong
from penstock.serve.structured import JsonObject

_Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class TextPart(Part):
    """A part of a message's content. Only text is served."""

    type: Literal["text"]
    text: Text


class CalledFunction(Part):
    """Which function was called, and with what."""

    name: _Name
    arguments: Text = Field(description="JSON text")


class ToolCall(Part):
    """A call that the assistant made in an earlier turn."""

    id: Text
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Part):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[TextPart] | None = None
    name: Text | None = Field(None, description="of the speaker, if the chat template shows it")
    tool_calls: list[ToolCall] | None = Field(None, description="of an assistant's turn")
    tool_call_id: Text | None = Field(None, description="which call a tool's turn answers")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.tool_calls is not None and self.role != "assistant":
            raise wrong(f"tool_calls belong to role assistant, not {self.role}")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise wrong("tool_call_id and role tool go together")
        if self.content is None and not self.tool_calls:
            raise wrong(f"role {self.role} needs content")
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return it in OpenAI's form, with the parts of its content joined."""
        said: dict[str, Any] = {"role": self.role, "content": self.text}
        if self.name is not None:
            said["name"] = self.name
        if self.tool_calls:
            said["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.tool_call_id is not None:
            said["tool_call_id"] = self.tool_call_id
        return said

    @property
    def text(self) -> str:
        """The content's parts, joined."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    @property
    def size(self) -> int:
        """Characters, about."""
        calls = self.tool_calls or ()
        return len(self.text) + sum(len(call.function.arguments) for call in calls)


class Function(Part):
    """A function that the model may call."""

    name: _Name
    description: Text | None = None
    parameters: JsonObject | None = Field(None, description="a JSON schema of the arguments")
    strict: bool = Field(False, description="whether the arguments must match the schema")


class Tool(Part):
    """A tool that the model may use. Only functions are served."""

    type: Literal["function"]
    function: Function

    def as_dict(self) -> dict[str, Any]:
        """Return it as chat templates expect it."""
        return self.model_dump(exclude_none=True, exclude_unset=True)


class ChosenFunction(Part):
    """The name of the function that must be called."""

    name: _Name


class ToolChoice(Part):
    """One function that must be called."""

    type: Literal["function"]
    function: ChosenFunction
