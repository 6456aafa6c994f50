"""The ladder's arithmetic, its order, what it keeps and what it does after an interruption."""

import msgspec
import pytest

pytest.importorskip("torch", reason="the ladder is of the engine")
from penstock.ablate.climb import Plan, ablate
from penstock.ablate.result import Ablation, Figure, Same, pays
from penstock.ablate.rungs import BASE, ladder
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
    assert ablate(PLAN, tmp_path, price=1.0) == found  # all of it is there
    assert fake.served == []
    fresh = ablate(PLAN, tmp_path / "fresh", price=1.0)
    assert len(asked) == len(fake.served)  # nothing was measured twice
    assert fresh == found


def test_a_torn_last_line_is_measured_again(fake, tmp_path):  # noqa: F811
    found = ablate(PLAN, tmp_path, price=1.0)
    file = tmp_path / "ablate.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    assert ablate(PLAN, tmp_path, price=1.0) == found


def test_another_plan_is_not_mixed_in(fake, tmp_path):  # noqa: F811
    ablate(PLAN, tmp_path, price=1.0)
    other = Plan(model="embedded", scale=msgspec.structs.replace(TINY, rounds=1))
    with pytest.raises(ValueError, match="holds another ablation"):
        ablate(other, tmp_path, price=1.0)


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
    assert pays(wavering, exact=True)
    assert not pays(wavering, exact=False)
    same = Same.of([([1, 2, 3], [1, 2, 3]), ([1, 2, 3], [1, 9, 3])])
    assert (same.requests, same.same, same.tokens, same.same_tokens) == (2, 1, 6, 4)
