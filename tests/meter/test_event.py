"""Events come out the same however the bytes were cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.meter.event import EventStream, LineTooLong

payloads = st.lists(
    st.binary(min_size=1, max_size=30).filter(lambda b: b"\r" not in b and not b.startswith(b" ")),
    max_size=8,
)
eols = st.sampled_from([b"\n", b"\r\n", b"\r"])


def encode(events, eol, noise):
    """As a server may write them: an LF inside data makes it several data lines."""
    out = []
    for data in events:
        if noise:
            out += [b": comment", b"event: message", b"id: 1", b"retry: 5"]
        out += [b"data: " + line for line in data.split(b"\n")] + [b""]
    return b"".join(line + eol for line in out)


def read(pieces):
    stream = EventStream()
    return [event for piece in pieces for event in stream.feed(piece)] + stream.close()


@given(payloads, eols, st.booleans(), st.data())
def test_any_cut_gives_the_same_events(events, eol, noise, data):
    text = encode(events, eol, noise)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(pieces) == events
    assert read([text[i : i + 1] for i in range(len(text))]) == events


@given(st.binary(max_size=200), st.data())
def test_no_bytes_at_all_break_it(text, data):
    cut = data.draw(st.integers(0, len(text)))
    assert read([text[:cut], text[cut:]]) == read([text])


def test_fields_of_the_standard():
    assert read([b"data:no space\n\ndata:  two\n\n"]) == [b"no space", b" two"]
    assert read([b"data\n\n"]) == [b""]
    assert read([b"event: ping\n\n: nothing\n\n"]) == []
    assert read([b"\xef\xbb\xbfdata: after BOM\n\n"]) == [b"after BOM"]


def test_a_last_event_without_its_empty_line_counts():
    assert read([b"data: a\n\ndata: b"]) == [b"a", b"b"]


def test_an_event_is_complete_with_its_empty_line_not_before():
    stream = EventStream()
    assert stream.feed(b"data: a\n") == []
    assert stream.feed(b"\n") == [b"a"]


def test_a_huge_line_is_read_and_an_endless_one_refused():
    huge = b"x" * 3_000_000
    pieces = [huge[i : i + 65536] for i in range(0, len(huge), 65536)]
    assert read([b"data: ", *pieces, b"\n\n"]) == [huge]
    stream = EventStream(max_line=1000)
    with pytest.raises(LineTooLong):
        for _ in range(20):
            stream.feed(b"y" * 100)
