"""The name of a request: the client's own where that will do, else ours."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable

HEADER = b"x-request-id"

# Printable ASCII, no space, bounded: it goes into headers, logs and answers as it is.
_SANE = re.compile(rb"[!-~]{1,128}")


class RequestIds:
    """Gives each request a name that no other has while it is served."""

    def __init__(self) -> None:
        self._in_use: set[str] = set()

    def take(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Return the one that X-Request-Id asks for, if it is sane and free, or a new one."""
        asked = dict(headers).get(HEADER, b"")
        taken = asked.decode() if _SANE.fullmatch(asked) else ""
        if not taken or taken in self._in_use:
            taken = uuid.uuid4().hex
        self._in_use.add(taken)
        return taken

    def release(self, taken: str) -> None:
        """The request is over."""
        self._in_use.remove(taken)
