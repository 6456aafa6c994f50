"""A packed picture is the same picture."""

import struct
import zlib

import altair as alt
import vl_convert as vlc

from penstock.report import look
from penstock.report.pack import pack


def chunks(picture):
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    at, found = 8, []
    while at < len(picture):
        length, kind = struct.unpack_from(">I4s", picture, at)
        data = picture[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", picture, at + 8 + length)
        assert checksum == zlib.crc32(kind + data)
        found.append((kind, data))
        at += 12 + length
    return found


def pixels(picture):
    return zlib.decompress(b"".join(data for kind, data in chunks(picture) if kind == b"IDAT"))


def test_the_pixels_stay_and_the_bytes_go():
    rows = [{"x": x, "y": x * x % 7} for x in range(50)]
    chart = alt.Chart(look.data(rows)).mark_line().encode(x="x:Q", y="y:Q")
    picture = vlc.vegalite_to_png(look.on_paper(chart).to_json(), scale=2)
    packed = pack(picture)
    assert len(packed) < 0.6 * len(picture)
    assert pixels(packed) == pixels(picture)
    others = [each for each in chunks(picture) if each[0] != b"IDAT"]
    assert [each for each in chunks(packed) if each[0] != b"IDAT"] == others
    assert pack(packed) == packed
