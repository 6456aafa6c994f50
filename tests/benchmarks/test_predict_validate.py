"""Predictions held against measured points: a small file, and the real one where it is."""

import json
import os
from pathlib import Path

import pytest
from benchmarks.measured_points import Replicas, devices, measured, rows
from benchmarks.predict_validate import main, ranking, validate

HEAD = (
    "measured,concurrency,backend,backend_version,model_path,system,precision,mode,isl,osl,"
    "batch_size,tp_size,pp_size,attention_dp_size,moe_tp_size,moe_ep_size,prefill_num_workers,"
    "prefill_tp_size,decode_num_workers,decode_tp_size,decode_batch_size,ttft_ms,tpot_ms"
)
# As fast as the sheet's bandwidth nearly allows, so that no default can be far off.
LLAMA = "meta-llama/Llama-3.1-8B-Instruct,h100_sxm"
ROWS = [
    f",8,trtllm,1.0,{LLAMA},,agg,1024,512,8,1,1,,1,1,,,,,,60,7.4",
    f",8,trtllm,1.0,{LLAMA},,agg,1024,512,8,2,1,,1,1,,,,,,60,4.8",
    f",8,vllm,1.0,{LLAMA},fp8,agg,1024,512,8,1,1,,1,1,,,,,,60,5.0",
    f",,trtllm,1.0,{LLAMA},,agg,1024,512,16,1,1,,1,1,,,,,,100,8.3",
    ",64,sglang,0.5,deepseek-ai/DeepSeek-V3,b200_sxm,fp4,disagg,8192,1024,,,,,,,1,4,1,8,64,1300,17",
    ",64,sglang,0.5,deepseek-ai/DeepSeek-R1,b200_sxm,fp4,disagg,8192,1024,,,,,,,,4,,8,,1300,17",
    ",64,sglang,0.5,someone/unheard-of,b200_sxm,fp4,agg,8192,1024,,8,1,,,,,,,,,1300,17",
    f",,trtllm,1.0,{LLAMA},,agg,1024,512,,1,1,,1,1,,,,,,100,8.3",
    f",8,trtllm,1.0,{LLAMA},,agg,1024,512,8,1,1,,1,1,,,,,,60,",
]
DATA = Path(os.environ.get("PENSTOCK_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
REAL = DATA / "results" / "serving_measured_h100_b200.csv"


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "measured.csv"
    path.write_text("\n".join([HEAD, *ROWS]) + "\n")
    return path


def test_every_row_is_predicted_or_told_why_not(small):
    found = validate(small)
    assert found["overall"]["rows"] == 4
    assert found["overall"]["tpot_median_abs_error"] < 0.3
    assert found["overall"]["choices"] == 1
    assert found["split"]["rows"] == 1
    assert found["by_mode"].keys() == {"agg", "disagg"}
    assert found["by_system"]["h100_sxm agg"]["rows"] == 4
    why = " ".join(found["unpredicted"])
    assert sum(found["unpredicted"].values()) == 3
    assert "someone/unheard-of" in why
    assert "number of replicas was not recorded" in why
    assert "neither concurrency nor batch_size" in why


def test_what_a_row_leaves_open_is_told_from_the_rest(small):
    found = rows(small)
    assert measured(found[0]).weights == "bf16"
    assert measured(found[3]).concurrency == 16
    # fp4 weights of 671 B parameters need four devices; the decode replica's tp says eight.
    assert measured(found[4]).parts == (Replicas(tp=4), Replicas(tp=8))
    assert measured(found[4]).devices == 12
    # That is a guess, for predictions; told is only the width of what experts are not cut by.
    assert devices(found[4]) is None
    assert devices({**found[4], "model_path": "meta-llama/Llama-3.1-70B"}) == 12


def test_groups_beyond_a_node_are_counted_once():
    row = dict.fromkeys(HEAD.split(","), "")
    row |= {"mode": "agg", "model_path": "deepseek-ai/DeepSeek-R1", "system": "b200_sxm"}
    row |= {"tp_size": "1", "attention_dp_size": "64", "moe_ep_size": "8", "tpot_ms": "20"}
    row |= {"isl": "8192", "osl": "1024", "concurrency": "64", "precision": "fp4"}
    assert measured(row).parts == (Replicas(dp=8, ep=8),)
    assert devices(row) == 8
    row |= {"tp_size": "64", "attention_dp_size": "1"}
    assert measured(row).parts == (Replicas(tp=8, ep=8),)
    row |= {"tp_size": "16", "moe_ep_size": "1"}
    assert measured(row).parts == (Replicas(tp=16),)
    row |= {"measured": "2026-02-11"}
    assert measured(row).drawn
    assert measured(row).prompt == pytest.approx(0.9 * 8192)


def test_ranking_tells_the_right_choice_from_the_wrong(small):
    fast, slow = (measured(row) for row in rows(small)[:2])
    right = ranking([(fast, 10.0, 3.0), (slow, 8.0, 2.0)])
    wrong = ranking([(fast, 10.0, 2.0), (slow, 8.0, 3.0)])
    assert right["regret_median"] == 0
    assert wrong["regret_median"] == pytest.approx(0.2)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="lacks the columns backend, isl"):
        validate(path)


def test_it_prints_json_or_a_table(small, monkeypatch, capsys, tmp_path):
    command = ["predict_validate", "--measured", str(small)]
    out = tmp_path / "out.json"
    monkeypatch.setattr("sys.argv", [*command, "--json", "--out", str(out)])
    main()
    printed = capsys.readouterr().out
    assert json.loads(printed)["overall"]["rows"] == 4
    assert json.loads(out.read_text()) == json.loads(printed)
    monkeypatch.setattr("sys.argv", command)
    main()
    assert "not predicted, 1: someone/unheard-of" in capsys.readouterr().out


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is absent")
def test_the_promise_of_the_docs_holds_on_the_real_file():
    found = validate(REAL)
    for part in (found["overall"], found["held_out"]):
        assert part["tpot_median_abs_error"] <= 0.15
        assert part["spearman_median"] >= 0.8
        assert part["spearman_median"] >= part["trivial"]["spearman_median"]
        assert part["regret_median"] <= 0.10
    assert found["moe"]["tpot_median_abs_error"] <= 0.25
    assert found["split"]["tpot_median_abs_error"] <= 0.25
    assert found["guides_share"] <= 1 / 3
