"""What the bodies of all endpoints share: types with limits, and refusals by name."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

# What OpenAI or its imitators define and we do not serve -> the values that
# change nothing. None (JSON null) always may stand.
NOT_SERVED: dict[str, tuple[JsonValue, ...]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "cache_salt": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),  # of completions, which have no template
    "continue_final_message": (False,),
    "documents": ([],),
    "function_call": ("none",),
    "functions": ([],),
    "guided_choice": (),
    "guided_decoding_backend": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "logits_processors": ([],),
    "metadata": ({},),
    "modalities": (["text"],),
    "prediction": (),
    "prompt_cache_key": (),
    "prompt_embeds": (),
    "reasoning_effort": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "safety_identifier": (),
    "service_tier": ("auto", "default"),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "store": (False,),
    "suffix": ("",),
    "truncate_prompt_tokens": (),
    "verbosity": (),
    "web_search_options": (),
}

INSTEAD = {
    "function_call": "Use tool_choice.",
    "functions": "Use tools.",
    "guided_choice": 'Use structured_outputs: {"choice": [...]}.',
    "guided_grammar": 'Use structured_outputs: {"grammar": ...}, in Lark\'s syntax.',
    "guided_json": 'Use structured_outputs: {"json": ...}.',
    "guided_regex": 'Use structured_outputs: {"regex": ...}.',
}


class BadParameter(Exception):
    """A parameter that types alone cannot refuse (HTTP 400)."""

    code = "invalid_value"

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class NotServed(BadParameter):
    """A parameter we know and do not serve, with a value that asks for something."""

    code = "unsupported_parameter"

    def __init__(self, param: str) -> None:
        neutral = " or ".join(json.dumps(value) for value in NOT_SERVED[param])
        remedy = f"Leave it out or set it to {neutral}." if neutral else "Leave it out."
        message = f"{param} is not served by this server. {INSTEAD.get(param, remedy)}"
        super().__init__(param, message)


def checked(text: str) -> str:
    """Return `text`, or raise if it is not what UTF-8 can say."""
    # JSON can spell half a surrogate pair (\ud800 alone); UTF-8 and tokenizers cannot.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise wrong(
            f"Input should be valid Unicode; character {error.start} is half a surrogate pair"
        ) from None
    return text


def wrong(message: str) -> PydanticCustomError:
    """Return what a validator raises when the value it sees is wrong."""
    return PydanticCustomError("wrong", "{message}", {"message": message})


# A bound for every count, so that none overflows on its way to the engine.
MAX_COUNT = 2**31 - 1
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Text = Annotated[str, AfterValidator(checked)]
TokenId = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class Part(BaseModel):
    """A JSON object inside a body: of the types it says, and nothing else in it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        """Drop nulls, JSON's way to leave out."""
        if not isinstance(value, dict):
            return value
        return {name: inner for name, inner in value.items() if inner is not None}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        required = schema.get("required", ())
        for name, field in schema.get("properties", {}).items():
            if name not in required and field.get("default", True) is not None:
                schema["properties"][name] = _nullable(field)
        return schema


class Body(Part):
    """A request's body, which may also hold what `NOT_SERVED` lists, with a neutral value."""

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        not_served = NOT_SERVED.keys() - cls.model_fields.keys()
        for name in body.keys() & not_served:
            if body[name] is not None and not _is_one_of(body[name], NOT_SERVED[name]):
                raise NotServed(name)
        return {name: value for name, value in body.items() if name not in not_served}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = super().__get_pydantic_json_schema__(core, handler)
        for name, neutral in NOT_SERVED.items():
            schema["properties"].setdefault(
                name, {"enum": [*neutral, None], "description": "not served"}
            )
        return schema


def _nullable(field: JsonSchemaValue) -> JsonSchemaValue:
    outer: JsonSchemaValue = {
        key: field[key] for key in ("default", "description", "title") if key in field
    }
    inner = {key: value for key, value in field.items() if key not in outer}
    return {"anyOf": [*inner.get("anyOf", [inner]), {"type": "null"}], **outer}


def _is_one_of(value: JsonValue, neutral: tuple[JsonValue, ...]) -> bool:
    # False == 0 in Python; as JSON they are not the same.
    return any(
        value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral
    )
