"""A run's records as text, for a spreadsheet."""

from __future__ import annotations

import csv
from typing import TextIO

import msgspec

from penstock.record.record import Record
from penstock.record.run import Run

# A cell that opens with one of these is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_csv(run: Run, file: TextIO) -> None:
    """Write one line for each record: point, repeat, then the fields of a record.

    None is an empty cell; a list is its values with spaces between. Text that a
    spreadsheet would run as a formula is preceded by an apostrophe.
    """
    writer = csv.writer(file)
    writer.writerow(["point", "repeat", *Record.__struct_fields__])
    for index, point in enumerate(run.points):
        for record in point.records:
            values = msgspec.structs.astuple(record)
            writer.writerow([index, point.repeat, *map(_cell, values)])


def _cell(value: object) -> object:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
