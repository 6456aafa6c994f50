"""What was measured so far, on disk: begun again, an ablation goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


class Store:
    """Answers by name, a line of JSON each; the first line says what they are answers to.

    Raises `ValueError` where the file holds those of another plan.
    """

    def __init__(self, file: Path, plan: Any) -> None:
        self._file = file
        self._held: dict[str, msgspec.Raw] = {}
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]  # the last may be torn
        head = msgspec.json.encode(plan) + b"\n"
        if whole and whole[0] != head:
            raise ValueError(
                f"{file} holds another ablation; remove it, or choose another directory with --out."
            )
        for line in whole[1:]:
            name, value = msgspec.json.decode(line, type=tuple[str, msgspec.Raw])
            self._held[name] = value
        if len(whole) < len(lines) or not whole:
            file.write_bytes(b"".join(whole) or head)

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def once(self, name: str, kind: type[T], make: Callable[[], T]) -> T:
        """The answer of this name: read if it is there, else found and kept."""
        if name not in self._held:
            encoded = msgspec.json.encode(make())
            with self._file.open("ab") as out:
                out.write(msgspec.json.encode((name, msgspec.Raw(encoded))) + b"\n")
            self._held[name] = msgspec.Raw(encoded)
        return msgspec.json.decode(self._held[name], type=kind)
