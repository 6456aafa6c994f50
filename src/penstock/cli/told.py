"""What a command found, told the way it was asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any


def tell(found: Any, report: str, *, html: Path | None, png: Path | None, json: bool) -> None:
    """Print `found` as JSON, or as the module `penstock.report.<report>` shows it.

    Writes its page and its picture where they are wanted. Raises `OSError` where
    that cannot be.
    """
    if json:
        import msgspec

        print(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())
    if json and html is None and png is None:
        return
    shown = import_module(f"penstock.report.{report}")
    if not json:
        from rich.console import Console

        shown.show(found, Console())
    if html is not None:
        shown.write_html(found, html)
    if png is not None:
        shown.write_png(found, png)
