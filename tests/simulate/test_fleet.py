"""Fleet files: what they may say, and errors that name the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.simulate import read_fleet
from penstock.simulate.fleet import Fleet, Group, Speculation, examples
from penstock.simulate.machine import machine
from tests.simulate.worlds import Linear

PLAIN = "[[replicas]]\nkv_tokens = 1000\ncosts = { step = 0.01 }\n"


def written(tmp_path: Path, text: str) -> str:
    file = tmp_path / "some.toml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize("name", sorted(examples()))
def test_every_example_can_be_simulated(name: str) -> None:
    for group in read_fleet(name).replicas:
        made = machine(group)
        assert made.pages * made.page_tokens > 10_000
        assert 0 <= made.step.request_s < 0.1
    assert read_fleet(name.removesuffix(".toml")) == read_fleet(name)


def test_an_unknown_file_names_the_examples() -> None:
    with pytest.raises(ValueError, match=r"no fleet file nowhere\.toml.*eight-h100\.toml"):
        read_fleet("nowhere.toml")


def test_a_fleet_is_called_as_its_file(tmp_path: Path) -> None:
    assert read_fleet(written(tmp_path, PLAIN)).name == "some"
    assert read_fleet(written(tmp_path, 'name = "mine"\n' + PLAIN)).name == "mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "replicas"),
        ("replicas = []\n", r"no replicas; give \[\[replicas\]\]"),
        (PLAIN + "cuont = 2\n", "cuont"),
        (PLAIN + "count = 0\n", "replicas.count=0 must be at least 1"),
        (PLAIN + "policy = { preset = 'ours' }\n", "policy.preset='ours' must be one of penstock"),
        (PLAIN + "policy = { max_runing = 3 }\n", "policy.max_runing is unknown; there are"),
        (PLAIN + "policy = { kv_budget = 64 }\n", "policy.kv_budget=64 is not simulated"),
        (PLAIN + "policy = { kv_keep = 'recent' }\n", "policy.kv_keep=recent is not simulated"),
        (PLAIN + "policy = { max_running = 'x' }\n", "policy: Expected `int`"),
        (PLAIN + "policy = { max_step_tokens = 8 }\n", "max_step_tokens=8 leaves no room"),
        (PLAIN + "[router]\npolicy = 'best'\n", "Invalid enum value 'best'"),
        (PLAIN + "[admission]\npatience_s = -1\n", "admission.patience_s=-1 must be above zero"),
        (PLAIN + "[[failures]]\nreplica = 3\nat_s = 1\n", "failures.replica=3 is not there"),
        (PLAIN + "[autoscale]\nmax = 0\ntarget = 1\n", "autoscale.max=0 must be at least 1"),
        (PLAIN + "count = 5\n[autoscale]\nmax = 4\ntarget = 1\n", "replicas.count=5"),
        (PLAIN + "role = 'prefill'\n", "prefill and decode replicas need each other"),
        (PLAIN + "model = 'llama-3.1-8b'\n", "model and device together"),
        (PLAIN + "model = 'm'\ndevice = 'd'\n", "2 step times; keep one"),
        (PLAIN + "speculation = { draft_tokens = 2, acceptance = 1.5 }\n", "acceptance=1.5"),
        ("[[replicas]\n", "some.toml"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_fleet(written(tmp_path, text))


def test_what_is_left_open_is_asked_for() -> None:
    with pytest.raises(ValueError, match="how long a step takes is not known"):
        machine(Group(kv_tokens=1000))
    with pytest.raises(ValueError, match="how much KV a replica holds is not known"):
        machine(Group(), Linear())
    with pytest.raises(ValueError, match="known"):
        machine(Group(model="no-such-model", device="h100"))


def test_a_policy_may_change_any_field_of_its_preset() -> None:
    policy = Group(policy={"preset": "penstock", "max_running": 7, "admit": "limit"}).scheduling()
    assert (policy.max_running, policy.admit, policy.align_chunks) == (7, "limit", True)
    assert Group().scheduling().admit == "chunk"


def test_a_draft_that_is_always_right_gives_all_its_tokens() -> None:
    assert Speculation(draft_tokens=4, acceptance=1.0).tokens_a_step == 5
    assert Fleet(replicas=(Group(count=2, model="m", device="d", tp=4),)).hardware == (
        "2 replicas of 4 x d"
    )
