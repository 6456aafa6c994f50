"""What the two processes write on standard error: one line for each event.

Never a prompt, an output, a key or the value of a header. The message of an
unexpected exception may quote any of them, so the server's log has its type
and where it was raised, not its message.
"""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import msgspec

from penstock.serve.options import LogFormat


def set_up(form: LogFormat, process: str, *, quote_exceptions: bool) -> None:
    """Log INFO and above of `process` ("server" or "engine") as text or as JSON lines."""
    handler = logging.StreamHandler()
    kind = _Json if form == "json" else _Text
    handler.setFormatter(kind(process, quote_exceptions))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def event(log: logging.Logger, message: str, **fields: Any) -> None:
    """Log `message` with `fields`; those that are None are left out."""
    log.info(message, extra={"fields": {k: v for k, v in fields.items() if v is not None}})


class _Formatter(logging.Formatter):
    def __init__(self, process: str, quote_exceptions: bool) -> None:
        super().__init__()
        self._process = process
        self._quote_exceptions = quote_exceptions

    def _exception(self, record: logging.LogRecord) -> str | None:
        if not record.exc_info or record.exc_info[0] is None:
            return None
        if self._quote_exceptions:
            return self.formatException(record.exc_info)
        return _without_message(record.exc_info[0], record.exc_info[2])


class _Json(_Formatter):
    """`{"time", "level", "process", "message", ...fields}`, and `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if (exception := self._exception(record)) is not None:
            line["exception"] = exception
        return msgspec.json.encode(line).decode()


class _Text(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {k}={v}" for k, v in getattr(record, "fields", {}).items())
        line = f"{record.levelname} {self._process}: {record.getMessage()}{fields}"
        exception = self._exception(record)
        return line if exception is None else f"{line}\n{exception}"


def _without_message(kind: type[BaseException], where: TracebackType | None) -> str:
    return "".join(traceback.format_tb(where)) + kind.__name__
