"""Fill the tables of docs/api.md from the code that checks each request.

    python tools/api_docs.py

Writes between the markers `<!-- begin NAME -->` and `<!-- end NAME -->`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from penstock.serve.fields import INSTEAD, NOT_SERVED
from penstock.serve.protocol import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
BODIES: dict[str, type[BaseModel]] = {
    "completions": CompletionBody,
    "chat": ChatBody,
    "tokenize": TokenizeBody,
    "detokenize": DetokenizeBody,
}
SERVED = "| parameter | takes | without it | what it does |\n|---|---|---|---|\n"

Schema = dict[str, Any]


def tables() -> dict[str, str]:
    """Each marker's name, and the Markdown that belongs there."""
    written = {name: SERVED + "".join(rows(body)) for name, body in BODIES.items()}
    return written | {"parts": "\n".join(parts()), "not served": not_served()}


def rows(body: type[BaseModel]) -> Iterator[str]:
    schema = body.model_json_schema()
    served = (
        name for name in schema["properties"] if name not in NOT_SERVED or name in body_fields(body)
    )
    for name in served:
        yield row(name, schema["properties"][name], name in schema.get("required", ()))


def body_fields(body: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in body.model_fields.items()}


def row(name: str, field: Schema, required: bool) -> str:
    without = "refused" if required else "" if field["default"] is None else code(field["default"])
    return f"| `{name}` | {takes(field)} | {without} | {field.get('description', '')} |\n"


def parts() -> Iterator[str]:
    """The objects inside bodies, one table each."""
    defined: Schema = {}
    for body in BODIES.values():
        defined |= body.model_json_schema().get("$defs", {})
    for name in sorted(defined.keys() - {"JsonValue"}):
        schema = defined[name]
        lines = [
            row(field, inner, field in schema.get("required", ()))
            for field, inner in schema["properties"].items()
        ]
        yield f"### {name}\n\n{schema['description']}\n\n{SERVED}{''.join(lines)}"


def not_served() -> str:
    lines = ["| parameter | may stand with | instead |", "|---|---|---|"]
    for name, neutral in sorted(NOT_SERVED.items()):
        values = " or ".join(code(value) for value in (*neutral, None))
        lines.append(f"| `{name}` | {values} | {INSTEAD.get(name, '')} |")
    return "\n".join(lines) + "\n"


def takes(schema: Schema) -> str:
    """Say which values a JSON schema allows, in a few words."""
    if "anyOf" in schema:
        options = [takes(option) for option in schema["anyOf"] if option != {"type": "null"}]
        return " or ".join(options)
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "anything" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "enum" in schema or "const" in schema:
        return ", ".join(code(value) for value in schema.get("enum", [schema.get("const")]))
    match schema["type"]:
        case "array":
            return f"list{limits(schema, 'Items', '')} of {takes(schema['items'])}"
        case "object":
            return "object" + limits(schema, "Properties", "entries")
        case "string":
            return "string" + limits(schema, "Length", "characters")
        case kind:
            return str(kind) + interval(schema)


def limits(schema: Schema, what: str, unit: str) -> str:
    low, high = schema.get(f"min{what}", 0), schema.get(f"max{what}")
    said = f"{low} to {high}" if low and high else f"up to {high}" if high else f"{low} or more"
    return f" ({said} {unit}".rstrip() + ")" if low or high else ""


def interval(schema: Schema) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None or high is None:
        return ""
    left = "(" if "exclusiveMinimum" in schema else "["
    return f" in {left}{bound(low)}, {bound(high)}]"


def bound(value: float) -> str:
    powers = {
        2**31 - 1: "2^31 - 1",
        2**63 - 1: "2^63 - 1",
        -(2**63): "-2^63",
        1 - 2**31: "1 - 2^31",
    }
    return powers.get(int(value), f"{value:g}")


def code(value: object) -> str:
    """JSON of a value, nulls inside left out."""
    if isinstance(value, dict):
        value = {name: inner for name, inner in value.items() if inner is not None}
    return f"`{json.dumps(value)}`"


def filled(page: str) -> str:
    """Return `page` with all tables as they should be."""
    for name, table in tables().items():
        pattern = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"
        # A backslash in a table is no group's name.
        escaped = table.replace("\\", r"\\")
        page, found = re.subn(pattern, rf"\1\n{escaped}\n\2", page, flags=re.DOTALL)
        if found != 1:
            raise SystemExit(f"{PAGE} has the markers of {name!r} {found} times, not once.")
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
