"""The shipped weights do what their README says they do."""

import ast
import json
from itertools import islice
from typing import Any

import pytest
import torch

from penstock import models
from penstock.workload import doctests, stdlib

RESULTS = json.loads((models.path("embedded").parent / "results.json").read_text())


def continued(model: Any, tokenizer: Any, prompt: str, tokens: int) -> str:
    """Greedy continuation of a prompt."""
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.inference_mode():
        out = model.generate(ids, max_new_tokens=tokens, do_sample=False)
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def parses(source: str) -> bool:
    """Whether this is Python."""
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def held_out_loss(model: Any, tokenizer: Any, check: dict[str, Any]) -> float:
    """Loss in nats per token over the beginning of the module that `check` names."""
    text = dict(stdlib.texts("held_out"))[check["module"]]
    ids = torch.tensor([tokenizer(text).input_ids[: check["tokens"] + 1]])
    with torch.inference_mode():
        return float(model(input_ids=ids, labels=ids).loss)


def test_sizes(model: Any, draft: Any) -> None:
    assert 6e6 <= sum(p.numel() for p in model.parameters()) <= 8e6
    assert sum(p.numel() for p in draft.parameters()) < 1e6
    for one in (model, draft):
        assert one.config.max_position_embeddings >= 2048
        assert one.config.num_key_value_heads < one.config.num_attention_heads
        assert one.config.tie_word_embeddings


def test_the_draft_speaks_the_same_tokens() -> None:
    ours, drafts = (models.path(name) / "tokenizer.json" for name in models.SHIPPED)
    assert ours.read_bytes() == drafts.read_bytes()


@pytest.mark.parametrize("name", ["embedded", "embedded-draft"])
def test_held_out_loss_is_what_the_readme_says(
    name: str, model: Any, draft: Any, tokenizer: Any
) -> None:
    # Other versions of Python have slightly other text: a twentieth is allowed.
    check = RESULTS["models"][name]["check"]
    one = model if name == "embedded" else draft
    assert held_out_loss(one, tokenizer, check) == pytest.approx(check["loss"], rel=0.05)


def test_the_whole_context_works(model: Any, tokenizer: Any) -> None:
    """Late tokens of a full window are predicted as well as with a short memory.

    A model that never saw such positions would lose a nat or more.
    """
    text = "".join(text for _, text in islice(stdlib.texts("held_out"), 10))
    ids = torch.tensor([tokenizer(text).input_ids[:2048]])
    with torch.inference_mode():
        whole = model(input_ids=ids).logits[0, 1791:-1]
        short = model(input_ids=ids[:, 1664:]).logits[0, 127:-1]
    late = ids[0, 1792:]
    cross_entropy = torch.nn.functional.cross_entropy
    assert cross_entropy(whole, late) < cross_entropy(short, late) + 0.1


@pytest.mark.parametrize(
    "prompt",
    [
        'def read_lines(path):\n    """Return the lines of a file."""\n',
        "def is_empty(self):\n    return",
        "def __init__(self, name):\n    self.name",
        "class Error(Exception):\n    def __str__(self):\n",
    ],
)
def test_it_plainly_writes_python(prompt: str, model: Any, tokenizer: Any) -> None:
    lines = (prompt + continued(model, tokenizer, prompt, 48)).splitlines()
    # The end is cut midway: an unfinished statement of up to three lines may be dropped.
    whole = next(n for n in range(len(lines), 0, -1) if parses("\n".join(lines[:n])))
    assert len("\n".join(lines[:whole])) > len(prompt)
    assert whole >= len(lines) - 3


def test_it_answers_between_a_fifth_and_four_fifths_of_the_doctests(
    model: Any, tokenizer: Any
) -> None:
    tasks = [
        task
        for grade in doctests.GRADES
        for task in islice(doctests.tasks("checkpoint", "held_out", [grade]), 5)
    ]
    right = sum(
        task.is_right(continued(model, tokenizer, doctests.few_shot(task), 24)) for task in tasks
    )
    assert 0.2 <= right / len(tasks) <= 0.8


def test_tokenizer_keeps_every_text_and_splits_digits(tokenizer: Any) -> None:
    for text in ("x = 1234\n", "\t né 漢字 🙂\r\n", "    return  None\n\n\n", "<|endoftext|"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.tokenize("1234") == list("1234")


def test_a_chat_is_a_session(tokenizer: Any) -> None:
    messages = [
        {"role": "user", "content": ">>> 1 + 1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": ">>> 2 + 2"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == ">>> 1 + 1\n2\n>>> 2 + 2\n"
