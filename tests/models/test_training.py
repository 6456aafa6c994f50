"""The trainer's two promises: an even, resumable diet, and an end that can come at any time."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="needs the dev extra")
sys.path.append(str(Path(__file__).parents[2] / "tools"))

from tokenizers import Tokenizer

from embedded.schedule import COOLDOWN, WARMUP_TOKENS, Schedule
from penstock import models
from penstock.compress.corpus import MIX, Corpus

TOKENIZER = Tokenizer.from_file(str(models.path("embedded") / "tokenizer.json"))


def corpus(**taken: int) -> Corpus:
    tokens = {
        "library": np.arange(3000, dtype=np.uint32),
        "tests": np.arange(10_000, 13_000, dtype=np.uint32),
    }
    return Corpus(TOKENIZER, tokens, [0], taken)


def test_continuing_gives_the_batches_that_would_have_come() -> None:
    whole = corpus()
    first, second = whole.batch(7, 64), whole.batch(5, 128)
    again = corpus()
    assert (again.batch(7, 64) == first).all()
    assert (corpus(**again.taken).batch(5, 128) == second).all()


def test_sources_keep_their_shares() -> None:
    data = corpus()
    data.batch(200, 16)
    assert {s: n / 200 for s, n in data.taken.items()} == pytest.approx(MIX, abs=0.01)


def test_the_text_is_covered_evenly() -> None:
    data = corpus()
    rows = data.batch(400, 63).numpy()  # 180 of the library's: 3.8 times its 3,000 tokens
    library = [row for row in rows if row[-1] < 3000 and (np.diff(row) == 1).all()]
    seen = np.bincount(np.concatenate(library))
    assert 2 <= seen[64:2900].min() <= seen.max() <= 6


def test_warms_up_holds_and_cools_to_nothing() -> None:
    schedule = Schedule(seconds=1e9)
    rates = []
    while not schedule.done:
        schedule.step(10_000, 1.0)
        rates.append(schedule.rate)
        if schedule.tokens == 3_000_000:
            schedule.cool_down()
    assert rates[0] < 0.05
    assert set(rates[WARMUP_TOKENS // 10_000 : 298]) == {1.0}
    assert rates[-1] == 0.0
    assert schedule.tokens == pytest.approx(3_000_000 * (1 + COOLDOWN), rel=0.01)
    assert schedule.length == 2048


def test_a_budget_of_minutes_leaves_time_to_cool_down() -> None:
    schedule = Schedule(seconds=6000)
    while not schedule.done:
        schedule.step(2048, {256: 1.0, 512: 1.15, 2048: 2.0}[schedule.length])
    assert schedule.elapsed == pytest.approx(6000, rel=0.05)


def test_a_stopped_process_keeps_its_budget() -> None:
    schedule = Schedule(seconds=6000)
    for _ in range(100):
        schedule.step(2048, 1.0)
    schedule.step(2048, 5000.0)  # stopped and continued meanwhile
    assert schedule.elapsed < 120
    assert Schedule(**schedule.state()) == schedule
