"""The ladder's arithmetic, its order, what it keeps and what it does after an interruption."""

from datetime import date

import msgspec
import pytest

pytest.importorskip("torch", reason="the ladder is of the engine")
from penstock import models
from penstock.ablate import store
from penstock.ablate.ablation import Plan, ablate
from penstock.ablate.result import Ablation, Figure, Same, pays
from penstock.ablate.rungs import BASE, bottom, ladder
from penstock.schedule.policy import Policy
from tests.ablate.fakes import TINY, fake  # noqa: F401

PLAN = Plan(model="embedded", scale=TINY)
FIELDS = (
    "name exact alone together ttft tpot memory cost quality claimed conditions".split()  # noqa: SIM905
)


@pytest.fixture
def found(fake, tmp_path) -> Ablation:  # noqa: F811
    return ablate(PLAN, tmp_path, price=3.6)


def test_every_technique_is_a_rung_and_says_what_was_claimed_and_why_it_differs():
    rungs = ladder(TINY, None)
    names = [rung.name for rung in rungs]
    assert len(set(names)) == len(names)
    assert all(rung.on in names for rung in rungs[1:])
    assert all(rung.claimed.says and rung.claimed.differs for rung in rungs)
    assert all(rung.claimed.source for rung in rungs[1:])


def test_json_has_what_it_promises(found):
    told = msgspec.json.decode(msgspec.json.encode(found))
    for rung in told["rungs"]:
        assert set(FIELDS) <= set(rung)
    one = next(rung for rung in told["rungs"] if rung["name"] == "int8")
    for part in (one["alone"], one["together"]):
        assert set(part["tokens_per_s"]) == {"median", "low", "high", "n"}
        assert part["ratio"]["median"] == pytest.approx(2.0)
    assert one["cost"] == pytest.approx(1e6 / 1000 / one["tokens_per_s"]["median"])
    assert msgspec.json.decode(msgspec.json.encode(found), type=Ablation) == found


def test_steps_multiply_to_the_top_and_exact_and_lossy_are_told_apart(found):
    top = found.top
    assert top.ratio.median == pytest.approx(top.steps)
    assert top.steps == pytest.approx(top.exact * top.lossy)
    # bf16, int8, int4 in its place, pruning; the exact rest is rows and sharing.
    assert top.lossy == pytest.approx(2 * 2 * 1.5 * 1.25)
    assert top.exact == pytest.approx(4 * 1.5)


def test_what_loses_is_shown_and_left_out_of_what_follows(fake, found):  # noqa: F811
    chunked = next(rung for rung in found.rungs if rung.name == "chunked")
    assert not chunked.together.kept
    assert chunked.together.ratio.median == pytest.approx(0.5)
    later = [s for s, _, _ in fake.served if s.options.weights == "int4" and s.forms]
    assert later
    assert not any(s.options.chunked_prefill for s in later)


def test_rounds_are_interleaved_and_every_other_one_runs_the_other_way(fake, found):  # noqa: F811
    first = [(s.options.kv_cache, turn[1], count) for s, turn, count in fake.served[:4]]
    assert first == [(False, 0, 1), (True, 0, 1), (True, 1, 1), (False, 1, 1)]


def test_a_pair_that_is_the_same_alone_and_together_is_measured_once(fake, found):  # noqa: F811
    static = next(rung for rung in found.rungs if rung.name == "static")
    assert static.alone.ratio == static.together.ratio
    pairs = [s for s, turn, _ in fake.served if s.options.batching == "static"]
    assert len(pairs) == 2 * TINY.rounds  # above native, and below continuous


def test_curves_run_over_requests_at_once(found):
    curve = next(curve for curve in found.curves if curve.name == "int4")
    assert [point.requests for point in curve.points] == [*TINY.curve, TINY.seats]
    assert all(point.ratio.median == pytest.approx(3.0) for point in curve.points)


def test_interrupted_it_goes_on_where_it_stopped(fake, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(fake, "stop_after", 7)
    with pytest.raises(KeyboardInterrupt):
        ablate(PLAN, tmp_path, price=1.0)
    assert len(fake.served) == 7
    monkeypatch.setattr(fake, "stop_after", None)
    found = ablate(PLAN, tmp_path, price=1.0)
    asked = [(s, turn, count) for s, turn, count in fake.served]
    monkeypatch.setattr(fake, "served", [])
    assert unnoted(ablate(PLAN, tmp_path, price=1.0)) == unnoted(found)  # all of it is there
    assert fake.served == []
    fresh = ablate(PLAN, tmp_path / "fresh", price=1.0)
    assert len(asked) == len(fake.served)  # nothing was measured twice
    assert unnoted(fresh) == unnoted(found)


def unnoted(found: Ablation) -> Ablation:
    """All but what is said of it, which tells what was read from what was measured."""
    return msgspec.structs.replace(found, notes=[])


def test_a_torn_last_line_is_measured_again(fake, tmp_path):  # noqa: F811
    found = ablate(PLAN, tmp_path, price=1.0)
    file = tmp_path / "ablate.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    assert unnoted(ablate(PLAN, tmp_path, price=1.0)) == unnoted(found)


def test_another_plan_is_not_mixed_in(fake, tmp_path):  # noqa: F811
    ablate(PLAN, tmp_path, price=1.0)
    other = Plan(model="embedded", scale=msgspec.structs.replace(TINY, rounds=1))
    with pytest.raises(ValueError, match="holds another ablation"):
        ablate(other, tmp_path, price=1.0)


def on(monkeypatch, day: int) -> None:
    """Let it be a day of November 2026."""
    monkeypatch.setattr(
        store, "date", type("Day", (), {"today": staticmethod(lambda: date(2026, 11, day))})
    )


def test_figures_keep_the_day_they_were_measured_on(fake, tmp_path, monkeypatch):  # noqa: F811
    on(monkeypatch, 1)
    monkeypatch.setattr(fake, "stop_after", 7)
    with pytest.raises(KeyboardInterrupt):
        ablate(PLAN, tmp_path, price=1.0)
    monkeypatch.setattr(fake, "stop_after", None)
    on(monkeypatch, 8)
    gone_on = ablate(PLAN, tmp_path, price=1.0)
    assert gone_on.conditions["date"] == "2026-11-01 to 2026-11-08"
    assert "oldest figures are from 2026-11-01" in gone_on.notes[0]
    on(monkeypatch, 20)
    read = ablate(PLAN, tmp_path, price=1.0)
    assert read.conditions["date"] == gone_on.conditions["date"]
    assert read.notes[0].startswith("Measured on 2026-11-01 to 2026-11-08, read from")
    fresh = ablate(PLAN, tmp_path / "fresh", price=1.0)
    assert fresh.conditions["date"] == "2026-11-20"
    assert not any("read from" in note or "Gone on" in note for note in fresh.notes)


def test_figures_of_another_machine_are_not_mixed_in(fake, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(store, "describe", lambda: "Old Processor, 2 cores")
    found = ablate(PLAN, tmp_path, price=1.0)
    assert found.conditions["machine"] == "Old Processor, 2 cores"
    monkeypatch.setattr(store, "describe", lambda: "New Processor, 4 cores")
    with pytest.raises(ValueError, match="on Old Processor, 2 cores, and this is New") as error:
        ablate(PLAN, tmp_path, price=1.0)
    assert "remove it, or choose another directory with --out" in str(error.value)


def test_one_that_takes_the_place_of_another_must_win_in_every_round(fake, tmp_path, monkeypatch):  # noqa: F811
    guesses = {"draft": (1.2, 1.2), "lookup": (1.4, 1.1), "suffix": (1.3, 1.25)}
    monkeypatch.setattr(fake, "guesses", guesses)
    kept = kept_of(ablate(PLAN, tmp_path / "a", price=1.0))
    assert (kept["draft"], kept["lookup"], kept["suffix"]) == (True, False, True)
    # Where there is none yet, one win is enough for what changes no answer.
    monkeypatch.setattr(fake, "guesses", {"lookup": (1.1, 0.9)})
    alone = Plan(model="embedded", scale=TINY, without=("draft", "suffix"))
    assert kept_of(ablate(alone, tmp_path / "b", price=1.0))["lookup"]


def kept_of(found: Ablation) -> dict[str, bool]:
    """Which rungs were kept."""
    return {rung.name: rung.together.kept for rung in found.rungs if rung.together}


@pytest.mark.parametrize("requests", [8, 600])
def test_batch_mode_changes_no_step_and_every_step_has_room(requests):
    scale = msgspec.structs.replace(TINY, requests=requests)
    *rungs, batch = ladder(scale, "draft")
    setting = bottom(scale)
    for rung in rungs:
        setting = rung.over(setting)
    options = batch.over(setting).options
    assert options.max_running == requests
    assert options.max_step_tokens == setting.options.max_step_tokens
    Policy(max_running=requests, max_step_tokens=options.max_step_tokens).check(16)


def test_what_is_exact_is_measured_beside_the_base_with_bf16_alone(fake, found):  # noqa: F811
    assert "2 to 19 output tokens" in found.conditions["requests"]
    direct = found.top.exact_measured
    assert direct.over == BASE
    # bf16, rows and sharing; neither chunks, which lost, nor int8, int4 or pruning.
    assert direct.ratio.median == pytest.approx(2 * 4 * 1.5)
    assert any(
        s.options.weights == "plain" and s.options.dtype == "bf16" and s.samples_together
        for s, _, _ in fake.served
    )


def test_a_lossy_rung_is_judged_alone_as_well(found):
    pruned = next(rung for rung in found.rungs if rung.name == "pruned")
    assert pruned.quality.change == pytest.approx(0.13)  # on int4
    assert pruned.quality_alone.change == pytest.approx(0.1)
    assert all((rung.quality_alone is None) == rung.exact for rung in found.rungs)


def test_what_is_longer_than_the_context_is_refused_first(fake, tmp_path):  # noqa: F811
    scale = msgspec.structs.replace(TINY, shared=100_000)
    with pytest.raises(ValueError, match="--shared 100000, --own 16 and --output 8 .* 2048"):
        ablate(Plan(model="embedded", scale=scale), tmp_path, price=1.0)
    assert fake.served == []


def test_a_model_without_a_tokenizer_is_refused_in_words(fake, tmp_path):  # noqa: F811
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_bytes((models.path("embedded") / "config.json").read_bytes())
    with pytest.raises(OSError, match=r"holds no tokenizer\.json"):
        ablate(Plan(model=str(model), scale=TINY), tmp_path / "out", price=1.0)


def test_a_base_that_cannot_be_had_is_said(fake, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(fake, "lacking", "dtype='fp32'")
    with pytest.raises(ValueError, match="kv-cache, to which all compare, cannot be: dtype"):
        ablate(PLAN, tmp_path, price=1.0)


def test_a_worker_that_dies_after_its_rounds_costs_its_rung_alone(fake, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(fake, "fading", "swiftkv")
    found = ablate(PLAN, tmp_path, price=1.0)
    swiftkv = next(rung for rung in found.rungs if rung.name == "swiftkv")
    assert "status -9" in swiftkv.cannot
    assert found.rungs[-1].together is not None


def test_a_rung_that_cannot_be_had_says_why_and_the_rest_goes_on(fake, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(fake, "lacking", "pruned")
    found = ablate(PLAN, tmp_path, price=1.0)
    pruned = next(rung for rung in found.rungs if rung.name == "pruned")
    assert pruned.cannot == "pruned cannot be had here"
    assert (pruned.alone, pruned.together, pruned.cost) == (None, None, None)
    assert any("pruned was not measured" in note for note in found.notes)
    assert found.rungs[-1].together is not None


@pytest.mark.parametrize(
    ("without", "says"),
    [
        (("int5",), "no such rung"),
        (("continuous",), "measured on continuous"),
        (tuple(rung.name for rung in ladder(TINY, None)[1:]), "cannot be left out"),
    ],
)
def test_a_rung_that_others_stand_on_stays(fake, tmp_path, without, says):  # noqa: F811
    with pytest.raises(ValueError, match=says):
        ablate(Plan(model="embedded", scale=TINY, without=without), tmp_path, price=1.0)


def test_gains_are_counted_from_the_base(found):
    base = next(rung for rung in found.rungs if rung.name == BASE)
    assert base.together.gain == 1.0
    assert found.top.over == BASE


def test_what_pays_and_what_is_alike():
    wavering = Figure.of([0.9, 1.1])
    assert pays(wavering, free=True)
    assert not pays(wavering, free=False)
    same = Same.of([([1, 2, 3], [1, 2, 3]), ([1, 2, 3], [1, 9, 3])])
    assert (same.requests, same.same, same.tokens, same.same_tokens) == (2, 1, 6, 4)
