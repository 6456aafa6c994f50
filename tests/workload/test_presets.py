import os
from pathlib import Path

import numpy as np
import pytest

from penstock.record.slo import parse_slos
from penstock.workload.agents import Agent
from penstock.workload.presets import FORMS, PRESETS, parse_workload
from penstock.workload.sessions import Sessions
from penstock.workload.shapes import Plain, Prefix, Rag
from penstock.workload.traces import read_trace


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("plain", Plain()),
        ("prefix:4,1024", Prefix(4, 1024)),
        ("rag:8,512", Rag(8, 512)),
        ("rag:8,512,200", Rag(8, 512, 200)),
        ("rag:8,512,200,0.7", Rag(8, 512, 200, 0.7)),
        ("sessions:5,10", Sessions(5, 5, 10)),
        ("sessions:2-8,0.5", Sessions(2, 8, 0.5)),
        ("agent", Agent()),
        ("agent:1,4,0.25", Agent(1, 4, 0.25)),
    ],
)
def test_what_is_written_is_read(text, shape):
    assert parse_workload(text).shape == shape


@pytest.mark.parametrize("text", ["", "talk", "rag", "rag:8", "prefix:x,1", "agent:1", "plain:2"])
def test_what_cannot_be_read_is_answered_with_what_can(text):
    with pytest.raises(ValueError, match="voice, chat, coding, batch") as caught:
        parse_workload(text)
    assert all(form in str(caught.value) for form in FORMS)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("prefix:0,9", "groups must be 1 or more"),
        ("rag:9,5,3", "pool of 3"),
        ("sessions:0,1", "turns must be 1 or more"),
        ("sessions:5-2,1", "write 2-5"),
        ("agent:1,0,1", "tries must be 1 or more"),
    ],
)
def test_numbers_out_of_range_are_named(text, what):
    with pytest.raises(ValueError, match=what):
        parse_workload(text)


@pytest.mark.parametrize("name", ["voice", "chat", "coding", "batch"])
def test_a_preset_says_where_each_figure_comes_from(name):
    preset = PRESETS[name]
    assert parse_workload(name) is preset
    assert len(parse_slos(preset.slos)) == (0 if name == "batch" else 2)
    set_ = {f for f in ("input_len", "output_len", "arrival", "concurrency") if getattr(preset, f)}
    assert set(preset.why) == set_ | ({"slos"} if preset.slos else set())


@pytest.mark.parametrize(("name", "file"), [("chat", "conv"), ("coding", "code")])
def test_lengths_are_those_of_the_trace_they_name(name, file):
    data = os.environ.get("PENSTOCK_DATA") or Path(__file__).parents[3] / "shared" / "data"
    path = Path(data) / "traces" / f"azure2023_{file}.csv"
    if not path.exists():
        pytest.skip(f"{path} is not there; set PENSTOCK_DATA")
    trace, preset = read_trace(path), PRESETS[name]
    for lengths, tokens in (
        (preset.input_len, trace.prompt_tokens),
        (preset.output_len, trace.output_tokens),
    ):
        assert lengths.a == pytest.approx(np.mean(tokens), abs=0.5)
        assert lengths.b == pytest.approx(np.std(tokens), abs=0.5)
