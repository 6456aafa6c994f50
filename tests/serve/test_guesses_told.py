"""A benchmark of our server while it guesses: what its page tells stands in run and report."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from penstock.record.run import load, save
from penstock.report import html
from penstock.workload.lengths import parse_lengths
from tests.meter.test_bench import measure
from tests.report.page import Page
from tests.serve.conftest import StartEmbedded
from tests.serve.test_metrics import samples


async def test_guesses_stand_in_run_and_report(
    start_embedded: StartEmbedded, tmp_path: Path
) -> None:
    prompts = tmp_path / "repeats.txt"
    prompts.write_text("def add(a, b):\n    return a + b\n\n\n" * 400)
    with start_embedded("--speculate", "lookup", "--draft-tokens", "3") as server:
        run = await measure(
            server.ready["url"],
            concurrency=(2,),
            requests=12,
            warmup=2,
            prompts=prompts,
            input_len=parse_lengths("100"),
            output_len=parse_lengths("60"),
        )
        shown = samples(server)
    save(run, tmp_path / "run")
    kept = load(tmp_path / "run")
    (point,) = kept.summary["points"]
    told = point["guesses"]
    assert 1.2 < told["tokens_per_step"] <= 4
    assert 0 < told["time_share"] < 0.5
    places = told["by_position"]
    assert len(places) == 3
    assert places[0]["drafted"] == pytest.approx(1)
    for earlier, later in pairwise(places):
        assert 0 < later["drafted"] <= earlier["drafted"] + 1e-9
        assert 0 < later["accepted"] <= earlier["accepted"] + 1e-9
    sums = [sum(place[name] for place in places) for name in ("accepted", "drafted")]
    assert told["accepted_share"] == pytest.approx(sums[0] / sums[1])

    # What was read last is what the server's page says of it all.
    read = {(one.name, one.position): one for one in kept.series}
    for name, source in (
        ("drafts", "spec_decode_num_drafts_total"),
        ("sequence_steps", "sequence_steps_total"),
        ("drafting", "spec_decode_seconds_total"),
        ("accepted", "spec_decode_num_accepted_tokens_total"),
    ):
        assert read[name, None].values[-1] == shown[source]
        assert read[name, None].source == f"penstock:{source}"
    for position in range(3):
        source = f"spec_decode_num_accepted_tokens_per_pos_total {position}"
        assert read["accepted_at", position].values[-1] == shown[source]

    text = Page(html.render(kept)).text
    for title in (
        "tokens a step and sequence",
        "% of drafts in the window: guess made (pale) and right",
        "Time guessing",
    ):
        assert title in text
