"""What was measured so far, on disk: begun again, an ablation goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from penstock.meter.machine import describe

T = TypeVar("T", bound=msgspec.Struct)


class _Head(msgspec.Struct):
    """The first line: what the others are answers to, and on which machine."""

    plan: msgspec.Raw = msgspec.Raw()
    machine: str = ""


class Store:
    """Answers by name, a line of JSON each, with the day they were found.

    Raises `ValueError` where the file holds those of another plan or machine.
    """

    def __init__(self, file: Path, plan: Any) -> None:
        self.machine = describe()
        self._file = file
        self._held: dict[str, msgspec.Raw] = {}
        self._days: set[str] = set()
        self._made = 0
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]  # the last may be torn
        head = _Head(msgspec.Raw(msgspec.json.encode(plan)), self.machine)
        if whole:
            self._check(msgspec.json.decode(whole[0], type=_Head), head)
        for line in whole[1:]:
            name, day, value = msgspec.json.decode(line, type=tuple[str, str, msgspec.Raw])
            self._held[name] = value
            self._days.add(day)
        self._read = bool(self._held)
        if len(whole) < len(lines) or not whole:
            file.write_bytes(b"".join(whole) or msgspec.json.encode(head) + b"\n")

    def _check(self, held: _Head, asked: _Head) -> None:
        remedy = "remove it, or choose another directory with --out."
        if bytes(held.plan) != bytes(asked.plan):
            raise ValueError(f"{self._file} holds another ablation; {remedy}")
        if held.machine != asked.machine:
            raise ValueError(
                f"{self._file} was measured on {held.machine}, and this is {asked.machine}: their "
                f"figures must not be mixed; {remedy}"
            )

    def once(self, name: str, kind: type[T], make: Callable[[], T]) -> T:
        """The answer of this name: read if it is there, else found and kept."""
        if name not in self._held:
            value, day = msgspec.Raw(msgspec.json.encode(make())), date.today().isoformat()
            with self._file.open("ab") as out:
                out.write(msgspec.json.encode((name, day, value)) + b"\n")
            self._held[name] = value
            self._days.add(day)
            self._made += 1
        return msgspec.json.decode(self._held[name], type=kind)

    @property
    def days(self) -> str:
        """When the answers were found: a day, or the first and the last."""
        return " to ".join(dict.fromkeys((min(self._days), max(self._days))))

    def told(self) -> list[str]:
        """What a reader must know of answers that were not found just now."""
        if not self._read:
            return []
        if not self._made:
            return [f"Measured on {self.days}, read from {self._file}; remove it to measure anew."]
        return [
            f"Gone on with from {self._file}, whose oldest figures are from {min(self._days)}; "
            "remove it to measure all of them anew."
        ]
