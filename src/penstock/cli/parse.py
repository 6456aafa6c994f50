"""Reads what options hold; a value that cannot be used is refused by the option's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import typer

T = TypeVar("T")


def read(option: str, parse: Callable[[str], T], text: str) -> T:
    """What `parse` makes of the text; its `ValueError` is said of the option."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def given(context: typer.Context) -> set[str]:
    """Which parameters were written, rather than left at their defaults."""
    return {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    }


def counts(text: str) -> tuple[int, ...]:
    """Counts from 1, as `1,4,16`."""
    found = tuple(int(part) for part in text.split(",") if part.strip().isdigit())
    if not found or len(found) != len(text.split(",")) or min(found) < 1:
        raise ValueError(f"{text!r} is no list of counts from 1; write 1,4,16")
    return found


def numbers(text: str) -> tuple[float, ...]:
    """Numbers above zero, as `0.5,2`."""
    return tuple(positive(part) for part in text.split(","))


def positive(text: str) -> float:
    """A number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is no number above zero")
    return value
