import os
from itertools import pairwise
from pathlib import Path

import pytest

from penstock.workload.traces import TraceRow, clip, read_azure

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.fixture
def conversation():
    data = os.environ.get("PENSTOCK_DATA") or Path(__file__).parents[3] / "shared" / "data"
    path = Path(data) / "traces" / "azure2023_conv.csv"
    if not path.exists():
        pytest.skip(f"{path} is not there; set PENSTOCK_DATA")
    return path


def test_azure_rows(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text(HEAD + "2023-11-16 18:00:02.5000000,30,0\n2023-11-16 18:00:00.1234567,10,5\n")
    rows = read_azure(file)
    assert [(r.prompt_tokens, r.output_tokens) for r in rows] == [(10, 5), (30, 1)]
    assert rows[0].at_s == 0.0
    assert rows[1].at_s == pytest.approx(2.3765433, abs=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "no column TIMESTAMP"),
        (HEAD, "holds no request"),
        (HEAD + "yesterday,1,2\n", "line 2"),
        (HEAD + "2023-11-16 18:00:02,x,2\n", "line 2"),
        (HEAD + "2023-11-16 18:00:02\n", "line 2"),
    ],
)
def test_a_bad_trace_is_refused_by_name(tmp_path, content, message):
    file = tmp_path / "t.csv"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_azure(file)


def test_clipping_keeps_prompt_and_output_within_the_context():
    rows = [TraceRow(0, 10, 5), TraceRow(1, 5000, 100), TraceRow(2, 50, 3000)]
    clipped, note = clip(rows, 1000)
    assert [(r.prompt_tokens, r.output_tokens) for r in clipped] == [(10, 5), (900, 100), (50, 500)]
    assert "1 of 3 prompts and 1 of 3 outputs" in note


def test_what_fits_is_left_alone():
    rows = [TraceRow(0, 10, 5)]
    assert clip(rows, 1000) == (rows, None)


def test_the_real_conversation_trace(conversation):
    rows = read_azure(conversation, limit=200)
    assert len(rows) == 200
    assert all(a.at_s <= b.at_s for a, b in pairwise(rows))
    clipped, note = clip(rows, 2048)
    assert max(r.prompt_tokens + r.output_tokens for r in clipped) <= 2048
    longer = sum(r.prompt_tokens + r.output_tokens > 2048 for r in rows)
    assert f"{longer} of 200 prompts" in note
