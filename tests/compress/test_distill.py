"""A student moves towards its teacher, in the time it has, and goes on where it was."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from penstock.compress import corpus, forward
from penstock.compress.checkpoint import Checkpoint
from penstock.compress.depth import without
from penstock.compress.desk import Work
from penstock.compress.distill import Distill, distil
from penstock.compress.training import Optimizers, distillation
from tests.compress.conftest import tokenizer

TEXT = "def add(a, b):\n    return a + b\n"


def lasting(minutes: float) -> Distill:
    return Distill(minutes=minutes, teacher="it", length=32, rows=4, peak=2e-3)


HOW = lasting(1)


class Clock:
    """Each look takes three seconds, and a step two looks."""

    def __init__(self, stop_after: float = 1e9):
        self.now, self.stop = 0.0, stop_after

    def __call__(self) -> float:
        self.now += 3
        if self.now > self.stop:
            raise KeyboardInterrupt
        return self.now


@pytest.fixture(autouse=True)
def little_text(monkeypatch):
    monkeypatch.setattr(corpus, "training_texts", lambda: {"library": [40 * TEXT], "tests": []})


def distance(student, teacher):
    rows = torch.tensor([tokenizer().encode(TEXT * 2).ids])
    with torch.no_grad():
        ours, theirs = (
            forward.forward(each.shape, each.floats(), rows[:, :-1]).log_softmax(-1)
            for each in (student, teacher)
        )
    return float(F.kl_div(ours, theirs, log_target=True, reduction="batchmean"))


def test_a_pruned_model_comes_nearer_to_what_it_was(llama, desk):
    student = without(llama, {1})
    made = distil(student, llama, HOW, desk, Clock())
    assert distance(made.checkpoint, llama) < 0.7 * distance(student, llama)
    course = [row["loss"] for row in made.details["loss of training rows"]]
    assert len(course) >= 2
    assert course[-1] < course[0]


def test_interrupted_it_goes_on_to_the_same_end(llama, desk, tmp_path):
    student, how = without(llama, {1}), lasting(0.5)
    whole = distil(student, llama, how, desk, Clock()).checkpoint
    again = replace(desk, work=Work(tmp_path / "again", {}))
    with pytest.raises(KeyboardInterrupt):
        distil(student, llama, how, again, Clock(stop_after=30))
    found = again.work.find("distill")
    assert found is not None
    assert 5 < float(found["/elapsed"]) < 30
    resumed = distil(student, llama, how, again, Clock()).checkpoint
    # The step that Ctrl-C cut off is taken again, on the next rows: alike, not the same.
    assert distance(whole, resumed) < 0.2 * distance(student, whole)


def test_with_less_time_it_ends_with_what_there_is(llama, desk):
    student = without(llama, {1})
    with pytest.raises(KeyboardInterrupt):
        distil(student, llama, HOW, desk, Clock(stop_after=20))
    kept = desk.work.find("distill")
    assert kept is not None
    made = distil(student, llama, lasting(0), desk, Clock()).checkpoint
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(made.tensors[name], kept[name].bfloat16())


def test_a_teacher_of_other_words_is_refused(llama, desk):
    other = llama.having(dict(llama.tensors), vocab_size=300)
    with pytest.raises(ValueError, match="teacher=it has 300 tokens, the student 259"):
        distil(llama, other, HOW, desk)


def test_the_loss_is_its_formula():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 11), torch.randn(5, 11)
    targets = torch.randint(0, 11, (5,))
    exact = F.cross_entropy(student, targets)
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    kl = (p * (p / q).log()).sum(-1).mean()
    found = distillation(student, teacher, targets, temperature=2.0, truth=0.25)
    torch.testing.assert_close(found, 0.75 * 4 * kl + 0.25 * exact)
    plain = distillation(student, None, targets, temperature=2.0, truth=0.25)
    torch.testing.assert_close(plain, exact)
    same = distillation(teacher, teacher, targets, temperature=2.0, truth=0.0)
    assert float(same) == pytest.approx(0, abs=1e-6)


def test_the_rate_rises_and_falls_to_nothing():
    shares = [HOW.rate(i / 100) for i in range(101)]
    assert shares[0] == shares[100] == 0
    assert max(shares) == pytest.approx(1, abs=0.06)
    assert shares[50] == pytest.approx(0.5 / 0.95)


def test_optimizers_come_back_as_they_were(family):
    checkpoint = Checkpoint.read(family("llama"))

    def trained(steps, restored=None):
        weights = checkpoint.floats() if restored is None else restored[0]
        for tensor in weights.values():
            tensor.requires_grad_()
        made = Optimizers(weights, 1e-3)
        made.restore({} if restored is None else restored[1])
        for step in range(steps):
            rows = torch.arange(20)[None] + step + (0 if restored is None else 2)
            loss = forward.forward(checkpoint.shape, weights, rows).square().mean()
            torch.autograd.backward(loss)
            made.step(1.0)
        return weights, made.tensors()

    whole, _ = trained(3)
    weights, state = trained(2)
    halves, _ = trained(1, ({k: v.detach() for k, v in weights.items()}, state))
    for name, tensor in whole.items():
        torch.testing.assert_close(halves[name], tensor)
