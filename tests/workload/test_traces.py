import gzip
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from penstock.record.record import Outcome, Record
from penstock.record.run import Load, Point, Run, save
from penstock.workload.traces import Trace, clip, read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
AGENTIC = (
    "trace,agent_depth,t_s,in_tokens,out_tokens,blocks,prefix_blocks_seen_in_trace,"
    "prefix_blocks_prev_request,api_time_s,ttft_s,think_time_s,stop,model\n"
)


def shared(name):
    data = os.environ.get("PENSTOCK_DATA") or Path(__file__).parents[3] / "shared" / "data"
    path = Path(data) / "traces" / name
    if not path.exists():
        pytest.skip(f"{path} is not there; set PENSTOCK_DATA")
    return path


def columns(trace):
    return list(
        zip(
            trace.at_s.tolist(),
            trace.prompt_tokens.tolist(),
            trace.output_tokens.tolist(),
            strict=True,
        )
    )


def write(tmp_path, content):
    file = tmp_path / "trace"  # no suffix: formats are told by content
    file.write_text(content)
    return file


def ids(runs):
    return [i for start, stop in runs for i in range(start, stop)]


def reused(blocks):
    """Share of blocks that are in a prefix seen before."""
    seen, hits, total = set(), 0, 0
    for runs in blocks:
        prompt = ids(runs)
        hits += next((n for n, i in enumerate(prompt) if i not in seen), len(prompt))
        total += len(prompt)
        seen.update(prompt)
    return hits / total


def test_azure(tmp_path):
    rows = "2023-11-16 18:00:02.5000000,30,0\n2023-11-16 18:00:00.1234567,10,5\n"
    trace = read_trace(write(tmp_path, AZURE + rows))
    assert trace.format == "Azure"
    assert columns(trace) == [(0.0, 10, 5), (pytest.approx(2.3765433, abs=1e-5), 30, 1)]


def test_burstgpt(tmp_path):
    rows = "5,ChatGPT,472,18,490,Conversation log\n45.5,GPT-4,1087,0,1087,API log\n"
    trace = read_trace(write(tmp_path, BURSTGPT + rows))
    assert trace.format == "BurstGPT"
    assert columns(trace) == [(0.0, 472, 18), (40.5, 1087, 1)]


def test_mooncake_and_its_blocks(tmp_path):
    trace = read_trace(
        write(
            tmp_path,
            '{"timestamp": 1000, "input_length": 1100, "output_length": 5, "hash_ids": [7, 8, 2]}\n'
            '\n{"timestamp": 3500, "input_length": 600, "output_length": 6, "hash_ids": [7, 9]}\n',
        )
    )
    assert columns(trace) == [(0.0, 1100, 5), (2.5, 600, 6)]
    assert [ids(runs) for runs in trace.blocks] == [[7, 8, 2], [7, 9]]
    assert trace.pieces(0, 1100) == [("block 0 7", 512), ("block 0 8", 512), ("block 0 2", 76)]
    assert trace.pieces(1, 600, copy=3)[0] == ("block 3 7", 512)


def test_agentic_sessions_share_what_was_counted(tmp_path):
    rows = (
        "a,0,0.0,200,5,3,0,0,1.0,,0.0,tool_use,m\n"
        "a,0,9.0,400,6,6,3,3,1.0,,2.5,tool_use,m\n"
        "a,1,12.0,100,7,1,0,0,1.0,,,end_turn,m\n"
        "a,0,15.0,500,8,7,6,1,1.0,,1.0,end_turn,m\n"
        "b,0,0.0,200,9,3,0,0,1.0,,0.0,end_turn,m\n"
    )
    trace = read_trace(write(tmp_path, AGENTIC + rows))
    first, second, other, third, alien = (ids(runs) for runs in trace.blocks)
    assert second[:3] == first
    assert not set(other) & set(second)
    assert third[:6] == second  # not the request before: it has one block
    assert not set(alien) & set(first + second + third + other)
    assert [session.tolist() for session in trace.sessions] == [[0, 1, 2, 3], [4]]
    assert trace.think_s == [0.0, 2.5, 0.0, 1.0, 0.0]
    assert trace.pieces(1, 400)[-1] == ("own 0 1", 400 - 6 * 64)


def test_packed_files_and_limits(tmp_path):
    file = tmp_path / "trace"
    with gzip.open(file, "wt") as out:
        out.write(AZURE + "2023-11-16 18:00:00,10,5\n2023-11-16 18:00:01,11,5\nbroken")
    assert len(read_trace(file, limit=2)) == 2  # what is beyond the limit is not read
    with pytest.raises(ValueError, match="line 4"):
        read_trace(file)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match="damaged gzip"):
        read_trace(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: no trace format has these columns"),
        ("a,b\n1,2\n", r"columns \(a, b\).*Azure: TIMESTAMP"),
        (AZURE, "holds no request"),
        (AZURE + "yesterday,1,2\n", "line 2, column TIMESTAMP"),
        (AZURE + "2023-11-16 18:00:02,x,2\n", "line 2, column ContextTokens: 'x'"),
        (AZURE + "2023-11-16 18:00:02,1,2\n2023-11-16 18:00:02,1,-2\n", "line 3.*'-2'"),
        (AZURE + "2023-11-16 18:00:02\n", "line 2: the line ends before column ContextTokens"),
        (BURSTGPT + "1,m,nan,2,3,x\n", "column Request tokens: 'nan'"),
        ('{"timestamp": 1, "input_length": 2}\n', "line 1: .*output_length"),
        ('{"timestamp": 1, "input_length": 2, "output_length": 3, "hash_ids": ["a"]}', "hash_ids"),
        (
            '{"timestamp": 1, "input_length": -2, "output_length": 3, "hash_ids": []}',
            "line 1: .*input_length",
        ),
        ('{"timestamp": 1, "input_length": 2, "output_length": 3}\n{oops', "line 2"),
    ],
)
def test_a_bad_trace_is_refused_by_name(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_trace(write(tmp_path, content))


def test_what_is_no_text_is_refused(tmp_path):
    file = tmp_path / "trace"
    file.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match="is no text"):
        read_trace(file)
    with pytest.raises(FileNotFoundError):
        read_trace(tmp_path / "nothing")


def recorded(directory, *points):
    run = Run(started="2026-01-01T00:00:00+00:00", target={}, points=[])
    for load, lengths in points:
        run.points.append(
            Point(
                load=load,
                start_ns=10**9,
                stop_ns=10**10,
                end_ns=10**10,
                warmup=0,
                records=[
                    Record(
                        request_id=str(i),
                        choice=choice,
                        outcome=Outcome.FINISHED,
                        sched_ns=10**9 + i * 5 * 10**8,
                        prompt_tokens_asked=prompt,
                        output_tokens=output,
                    )
                    for i, (prompt, output) in enumerate(lengths)
                    for choice in (0, 1)
                ],
            )
        )
    save(run, directory)


def test_a_recorded_run(tmp_path):
    load = Load(kind="open", rate=2.0)
    recorded(tmp_path / "one", (load, [(10, 3), (20, 4)]))
    trace = read_trace(tmp_path / "one")
    assert columns(trace) == [(0.0, 10, 3), (0.5, 20, 4)]

    recorded(tmp_path / "two", (load, [(10, 3)]), (load, [(11, 5), (12, 6)]))
    with pytest.raises(ValueError, match="2 operating points; choose one"):
        read_trace(tmp_path / "two")
    assert columns(read_trace(tmp_path / "two#2")) == [(0.0, 11, 5), (0.5, 12, 6)]
    with pytest.raises(ValueError, match="operating points 1 to 2"):
        read_trace(tmp_path / "two#3")
    with pytest.raises(ValueError, match="is no run"):
        read_trace(tmp_path)


def of(*lengths):
    prompt, output = np.array(lengths).T
    return Trace(
        format="test", at_s=np.arange(len(lengths)), prompt_tokens=prompt, output_tokens=output
    )


def test_clipping_keeps_prompt_and_output_within_the_context():
    clipped, note = clip(of((10, 5), (5000, 100), (50, 3000)), 1000)
    assert [row[1:] for row in columns(clipped)] == [(10, 5), (900, 100), (50, 500)]
    assert "1 of 3 prompts and 1 of 3 outputs" in note


def test_what_fits_is_left_alone():
    assert clip(of((10, 5)), 1000)[1] is None


def test_the_real_conversation_trace():
    trace = read_trace(shared("azure2023_conv.csv"), limit=200)
    assert len(trace) == 200
    assert all(a <= b for a, b in pairwise(trace.at_s))
    clipped, note = clip(trace, 2048)
    assert (clipped.prompt_tokens + clipped.output_tokens).max() <= 2048
    longer = (trace.prompt_tokens + trace.output_tokens > 2048).sum()
    assert f"{longer} of 200 prompts" in note


def test_the_real_code_trace():
    trace = read_trace(shared("azure2023_code.csv"))
    assert len(trace) == 8819
    assert (np.median(trace.prompt_tokens), np.median(trace.output_tokens)) == (1469, 13)


def test_the_real_mooncake_trace_shares_as_published():
    trace = read_trace(shared("mooncake_conversation.jsonl"))
    assert len(trace) == 12_031
    assert trace.at_s[-1] == pytest.approx(59 * 60, abs=60)
    assert reused(trace.blocks) == pytest.approx(0.366, abs=0.001)
    for index in range(0, len(trace), 500):
        pieces = trace.pieces(index, int(trace.prompt_tokens[index]))
        assert sum(tokens for _, tokens in pieces) == trace.prompt_tokens[index]


def test_the_real_agentic_trace_shares_prefixes_from_its_beginning():
    trace = read_trace(shared("agentic_coding_requests.csv.gz"), 3000)
    assert len(trace) == 3000
    assert all(len(rows) for rows in trace.sessions)
    assert 0.8 < reused(trace.blocks) < 1


@pytest.mark.slow
def test_the_real_agentic_trace_shares_as_published():
    trace = read_trace(shared("agentic_coding_requests.csv.gz"))
    assert (len(trace), len(trace.sessions)) == (44_758, 676)
    assert reused(trace.blocks) == pytest.approx(0.962, abs=0.001)


def test_what_is_no_trace_of_requests_is_refused():
    with pytest.raises(ValueError, match="total_rate_rps"):
        read_trace(shared("servegen_rate_10min.csv"))
