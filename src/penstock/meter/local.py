"""A server of our own as a child process, for the time of a measurement."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence

import msgspec

from penstock.meter.target import TargetError

START_S = 120.0
STOP_S = 10.0


class _Ready(msgspec.Struct):
    url: str


@contextlib.asynccontextmanager
async def served(arguments: Sequence[str]) -> AsyncIterator[str]:
    """Run `python -m penstock serve ARGUMENTS` and give its URL; stop it on leaving.

    The child's first line on standard output is JSON with its `url`. Raises
    `TargetError`, with what the child said last, if it does not come to that.
    """
    with tempfile.TemporaryFile() as errors:
        # A process group of its own: Ctrl-C must reach us alone, so that the
        # measurement can end while the server still answers.
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "penstock", "serve", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        assert child.stdout is not None
        try:
            try:
                async with asyncio.timeout(START_S):
                    ready = msgspec.json.decode(await child.stdout.readline(), type=_Ready)
            except (TimeoutError, msgspec.DecodeError) as error:
                errors.seek(0)
                said = errors.read().decode("utf-8", "replace").strip().splitlines()[-5:]
                raise TargetError(
                    "the server for the embedded model did not start. " + " | ".join(said)
                ) from error
            yield ready.url
        finally:
            await _stop(child)


async def _stop(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()
