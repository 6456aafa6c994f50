"""What `penstock bench` can measure, by how a user writes it."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from penstock.meter.target import Target

EMBEDDED = "embedded"
Opening = contextlib.AbstractAsyncContextManager["Target"]


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is asked."""

    model: str | None = None
    chat: bool | None = None  # None: as the server understands
    stream: bool = True
    api_key: str | None = None
    timeout_s: float = 600.0
    seed: int = 0  # of what a simulated fleet draws


def opening(target: str | None, asking: Asking, tokenizer: Tokenizer | None) -> Opening:
    """How to open the target; whatever runs only for the measurement ends with it."""
    from penstock.meter.http import HttpTarget
    from penstock.meter.local import served

    @contextlib.asynccontextmanager
    async def http(url: str) -> AsyncIterator[Target]:
        opened = await HttpTarget.open(
            url,
            model=asking.model,
            chat=asking.chat,
            stream=asking.stream,
            api_key=asking.api_key,
            timeout_s=asking.timeout_s,
            tokenizer=tokenizer,
        )
        try:
            yield opened
        finally:
            await opened.close()

    @contextlib.asynccontextmanager
    async def embedded() -> AsyncIterator[Target]:
        print("Starting the embedded model ...", file=sys.stderr)
        async with served([EMBEDDED, "--port", "0"]) as url, http(url) as opened:
            yield opened

    @contextlib.asynccontextmanager
    async def engine(name: str) -> AsyncIterator[Target]:
        from penstock.serve.inprocess import EngineTarget

        opened = EngineTarget(name)
        try:
            yield opened
        finally:
            await opened.close()

    @contextlib.asynccontextmanager
    async def simulated(name: str) -> AsyncIterator[Target]:
        from penstock.simulate.fleet import read_fleet
        from penstock.simulate.target import SimTarget

        yield SimTarget(read_fleet(name), asking.seed)

    if target is None:
        need_engine("The embedded model")
        return embedded()
    if target.startswith("engine:"):
        need_engine(target)
        return engine(target.removeprefix("engine:"))
    if target.startswith("sim:"):
        return simulated(target.removeprefix("sim:"))
    if target.startswith(("http://", "https://")):
        return http(target)
    raise typer.BadParameter(
        f"{target!r} is neither an http:// or https:// address, nor engine:MODEL, nor sim:FILE",
        param_hint="TARGET",
    )


def tokenizer_of(path: Path | None, target: str | None) -> Tokenizer | None:
    """The target's tokenizer, where it was given or is our own model's."""
    from penstock import models

    if path is None:
        if target is not None and not target.startswith("engine:"):
            return None
        try:
            path = models.path(target.removeprefix("engine:") if target else EMBEDDED)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="TARGET") from error
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise typer.BadParameter(f"{file}: {error}", param_hint="--tokenizer") from error


def need_engine(what: str) -> None:
    """Say what to install where PyTorch is missing."""
    if importlib.util.find_spec("torch") is None:
        print(
            f"penstock bench: {what} needs PyTorch. Run: pip install 'penstock[engine]'",
            file=sys.stderr,
        )
        raise typer.Exit(2)
