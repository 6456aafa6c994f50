"""A prompt or chat made shorter: what is counted, timed and billed of it."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.prompts import prefill
from penstock.prompts.keep import Rule
from penstock.prompts.run import Asked, Found, compress_chat
from penstock.prompts.scorer import Scorer
from penstock.record.price import parse_price
from penstock.report.prompt import sentences
from penstock.workload import stdlib

TEXT = next(text for _, text in stdlib.texts("held_out") if 6000 < len(text) < 20_000)[:6000]
SYSTEM = {"role": "system", "content": TEXT}
PRICE = parse_price("in=1,cached=0.1,out=4")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer("embedded-draft")


def compressed(scorer: Scorer, chat: list[dict[str, Any]], **asked: Any) -> Found:
    return compress_chat(chat, scorer, Asked(price=PRICE, **asked), lambda said: None)


def test_a_chat_that_stays_as_it_is_loses_nothing(scorer: Scorer) -> None:
    found = compressed(scorer, [SYSTEM, {"role": "user", "content": "What is it?"}], cached=900)
    assert found.kept == found.tokens > 1000
    assert found.bill is not None
    assert found.bill.held == 900
    assert found.bill.shortened == found.bill.whole
    assert "saves nothing" in " ".join(sentences(found))
    assert not found.notes


def test_a_chat_is_counted_and_billed_whole(scorer: Scorer) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"arguments": TEXT}}]}
    found = compressed(scorer, [SYSTEM, {"role": "user", "content": TEXT}, call], cached=9000)
    half = len(scorer.tokenizer.encode(TEXT, special=False))
    assert found.tokens > 3 * half  # written as JSON, the call is a little longer
    assert found.bill is not None
    assert found.bill.cached == found.tokens
    assert half + 16 <= found.bill.held < 1.2 * half
    assert "the prompt has only" in found.notes[0]


def test_of_a_chat_what_users_say_is_judged(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefill, "measured", lambda engine, rates: prefill.steady(10_000))
    user = {"role": "user", "content": TEXT}
    found = compressed(scorer, [SYSTEM, user], tokens_per_s=1000)
    assert found.break_even is not None
    times = found.break_even.times
    assert times.full_s == pytest.approx(found.tokens / 1000)
    assert times.score_s == pytest.approx(found.tokens / 2 / 10_000, rel=1e-3)
    # n/1000 = n/2/10000 + k n/1000.
    assert found.break_even.most_kept == pytest.approx(0.95, abs=1e-3)


def test_each_message_has_its_own_budget(scorer: Scorer) -> None:
    user = {"role": "user", "content": TEXT}
    found = compressed(scorer, [user, user], rule=Rule(tokens=500))
    assert 900 < found.kept <= 1000
    assert not found.notes
