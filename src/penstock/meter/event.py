"""Server-sent events: from bytes, however they were cut, to the data of each event."""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"


class LineTooLong(ValueError):
    """A line of the stream exceeded the limit."""


class EventStream:
    """Splits a stream into the `data` of its events (WHATWG HTML, 9.2).

    Lines end in LF, CRLF or CR; comments and other fields are ignored; several
    data lines of one event are joined with LF. Bytes may be cut anywhere.
    """

    def __init__(self, max_line: int = 16 * 2**20) -> None:
        self._max_line = max_line
        self._tail: list[bytes] = []  # the pieces of a line whose end has not come yet
        self._tail_size = 0
        self._data: list[bytes] = []
        self._after_cr = False  # an LF that comes next belongs to that CR
        self._at_start = True

    def feed(self, piece: bytes) -> list[bytes]:
        """Data of the events that this piece completes; raises `LineTooLong`."""
        if self._is_one_event(piece):
            self._at_start = False
            return [piece[6:-2]]
        if self._after_cr and piece:
            self._after_cr = False
            piece = piece.removeprefix(b"\n")
        if b"\n" not in piece and b"\r" not in piece:
            self._keep(piece)
            return []
        self._after_cr = piece.endswith(b"\r")
        # bytes.splitlines knows exactly the three line ends of the standard.
        lines = b"".join([*self._tail, piece]).splitlines()
        self._tail, self._tail_size = [], 0
        if not piece.endswith((b"\n", b"\r")):
            self._keep(lines.pop())
        return [event for line in lines if (event := self._line(line)) is not None]

    def _is_one_event(self, piece: bytes) -> bool:
        """Whether it is just one line of data and its end, which is how most servers send."""
        return (
            piece.startswith(b"data: ")
            and piece.find(b"\n") == len(piece) - 2
            and piece.endswith(b"\n")
            and b"\r" not in piece
            and not (self._tail or self._data or self._after_cr)
        )

    def close(self) -> list[bytes]:
        """Data of an event that the end of the stream left without its empty line."""
        lines = [b"".join(self._tail), b""]
        self._tail, self._tail_size = [], 0
        return [event for line in lines if (event := self._line(line)) is not None]

    def _keep(self, piece: bytes) -> None:
        self._tail.append(piece)
        self._tail_size += len(piece)
        if self._tail_size > self._max_line:
            raise LineTooLong(f"a line of more than {self._max_line:,} bytes")

    def _line(self, line: bytes) -> bytes | None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line == b"data":
            self._data.append(b"")
        elif not line and self._data:
            data, self._data = b"\n".join(self._data), []
            return data
        return None
