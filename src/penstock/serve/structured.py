"""What the output must match: `response_format` and `structured_outputs`."""

from __future__ import annotations

import json
import re
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from penstock.engine.request import Grammar
from penstock.serve.fields import Part, Text, wrong

JsonObject = dict[str, JsonValue]
_ANY_OBJECT = Grammar("json_schema", '{"type":"object"}')


class JsonSchema(Part):
    """A schema and its name, as OpenAI wraps it."""

    name: Text = Field(max_length=64, description="a label; the model does not see it")
    description: Text | None = Field(None, description="as name: the model does not see it")
    schema_: JsonObject = Field(alias="schema", description="the JSON schema itself")
    strict: bool = Field(True, description="the output matches the schema whatever this says")


class ResponseFormat(Part):
    """OpenAI's way to ask for JSON."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = Field(default=None, description="for type json_schema")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise wrong("json_schema and type json_schema go together")
        return self

    def grammar(self) -> Grammar | None:
        """Return what the output must match, or None for any text."""
        if self.json_schema is not None:
            return Grammar("json_schema", _dump(self.json_schema.schema_))
        return _ANY_OBJECT if self.type == "json_object" else None


class StructuredOutputs(Part):
    """vLLM's way to ask for a form of output."""

    # `json` is a method of pydantic's models, hence the alias.
    json_: JsonObject | Text | None = Field(
        None, alias="json", description="a JSON schema, as an object or as JSON text"
    )
    regex: Text | None = Field(None, description="a regular expression of the whole output")
    choice: list[Annotated[Text, Field(min_length=1)]] | None = Field(
        None, min_length=1, max_length=1024, description="the texts to choose from"
    )
    grammar_: Text | None = Field(None, alias="grammar", description="a grammar in Lark's syntax")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise wrong("give exactly one of json, regex, choice and grammar")
        return self

    def grammar(self) -> Grammar:
        """Return what the output must match."""
        if self.json_ is not None:
            schema = self.json_ if isinstance(self.json_, str) else _dump(self.json_)
            return Grammar("json_schema", schema)
        if self.choice is not None:
            return Grammar("regex", "|".join(map(re.escape, self.choice)))
        if self.regex is not None:
            return Grammar("regex", self.regex)
        assert self.grammar_ is not None
        return Grammar("lark", self.grammar_)


def _dump(schema: JsonObject) -> str:
    return json.dumps(schema, separators=(",", ":"))
