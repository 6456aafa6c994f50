"""Who hears how far a long job is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Hears what is being done, how much of it is done, and how much there is."""


def unwatched(title: str, done: int, total: int) -> None:
    """A `Progress` of nobody."""
