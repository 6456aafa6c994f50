"""Real workers on the embedded model: the same text on exact rungs, guesses replayed, deaths."""

import sys
import time
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch", reason="workers are engines")
from penstock import models
from penstock.ablate.ablation import Plan, ablate
from penstock.ablate.crew import Cannot, Crew
from penstock.ablate.hand import Broken, Hand, family, hired, running
from penstock.ablate.load import Load
from penstock.ablate.parts import Parts
from penstock.ablate.replay import Replay
from penstock.ablate.rungs import bottom, ladder
from penstock.ablate.setting import Asked, Order, Start
from penstock.ablate.worker import _serve
from penstock.engine.llm import LLM
from penstock.engine.model.tokenizer import Tokenizer
from penstock.engine.options import EngineOptions
from tests.ablate.fakes import TINY

ORDER = Order(
    asked=[Asked(prompt=list(range(40, 60)), output=12, seed=3, samples=2)], temperature=0.8
)


def test_replayed_guesses_come_true_as_recorded_and_change_no_text():
    plain = _serve(LLM("embedded", EngineOptions(max_running=4)), ORDER, None)
    llm = LLM("embedded", EngineOptions(max_running=4, speculate="lookup", draft_tokens=3))
    replay = Replay(None, [((1, 1, 1), 2)])
    llm.engine.speculator.drafter = replay
    shot = _serve(llm, ORDER, replay)
    assert shot.said == plain.said
    assert shot.output_tokens == 24
    stats = llm.engine.stats()
    assert stats.guessed_right[0] == stats.guessed[0] > 0
    assert stats.guessed_right[1] == stats.guessed[1] > 0
    assert sum(stats.guessed_right[2:]) == 0


def test_every_serving_begins_with_an_empty_prefix_cache():
    llm = LLM("embedded", EngineOptions(max_running=4))
    one = Order(asked=[Asked(prompt=list(range(40, 90)), output=2, seed=0)], temperature=0.0)
    assert [_serve(llm, one, None).cached_tokens for _ in range(2)] == [0, 0]


def test_a_real_ladder_says_the_same_with_and_without_a_cache(tmp_path):
    kept = ("no-cache", "kv-cache")
    without = tuple(rung.name for rung in ladder(TINY, None) if rung.name not in kept)
    scale = msgspec.structs.replace(TINY, rounds=1, tasks=1)
    found = ablate(Plan(model="embedded", scale=scale, without=without), tmp_path, price=1.0)
    cached = found.rungs[1]
    assert cached.outputs.same == cached.outputs.requests == 1
    assert cached.memory.peak_bytes > cached.memory.weight_bytes > 0
    assert cached.quality.loss > 0
    assert 0 <= cached.quality.doctests_right <= 1
    assert cached.ttft.median > 0
    assert cached.tpot.median > 0


def test_a_setting_that_cannot_be_loaded_is_told(tmp_path):
    start = Start(model="embedded", options=EngineOptions(dtype="fp32", kernels="native"))
    with hired(start, tmp_path / "log") as hand:
        assert "they compute in bf16" in hand.ready.error


def test_a_dead_worker_is_told_with_its_last_words(tmp_path):
    log = tmp_path / "log"
    words = (sys.executable, "-c", "import sys; print('out of luck', file=sys.stderr); sys.exit(3)")
    with (
        pytest.raises(Broken, match="status 3: out of luck"),
        running(words, log, stdin=-1, stdout=-1) as process,
    ):
        Hand(process, log, Start(model="embedded", options=EngineOptions()))


@pytest.mark.parametrize(
    "before", ["", """read -r start; echo '{"precision": "bf16"}'; read -r order;"""]
)
def test_a_worker_killed_while_it_loads_or_warms_is_a_setting_that_cannot_be(
    before, tmp_path, monkeypatch
):
    program = tmp_path / "killed"
    program.write_text(f"#!/bin/sh\n{before}\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    load = Load(TINY, Tokenizer.load(models.path("embedded")).encode)
    with Crew("embedded", load, Parts(tmp_path, TINY)) as crew:
        for asked in (lambda s: crew.serve(s, ("rounds", 0), 1), crew.ready):
            with pytest.raises(Cannot, match="ended with status -9"):
                asked(bottom(TINY))
    with pytest.raises(ValueError, match="kv-cache, to which all compare, cannot be.*status -9"):
        ablate(Plan(model="embedded", scale=TINY), tmp_path / "run", price=1.0)


@pytest.mark.skipif(sys.platform != "linux", reason="families are found in /proc")
def test_all_that_a_process_started_ends_with_it(tmp_path):
    # A child in a session of its own, deaf to SIGTERM: a server's engine may be like it.
    child = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    parent = (
        "import subprocess,sys,time;"
        f"subprocess.Popen([sys.executable,'-c',{child!r}],start_new_session=True);"
        "time.sleep(60)"
    )
    with running((sys.executable, "-c", parent), tmp_path / "log") as process:
        deadline = time.monotonic() + 20
        while len(members := family(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(members) == 2
        time.sleep(0.3)  # until the child is deaf
    time.sleep(0.2)
    for member in members:
        file = Path(f"/proc/{member}/stat")  # gone, or dead and not yet buried
        assert not file.exists() or file.read_text().rpartition(")")[2].split()[0] == "Z"
