"""What a trained checkpoint is worth: loss, right answers, agreement, samples."""

from collections.abc import Callable
from itertools import islice

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from embedded.tokenizer import END
from penstock.workload import doctests

SAMPLES = (
    'def read_lines(path):\n    """Return the lines of a file."""\n',
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "import unittest\n\nclass ListTest(unittest.TestCase):\n\n    def test_append(self):\n",
)


def windows(tokenizer: Tokenizer, texts: list[str], length: int, limit: int) -> tuple[Tensor, int]:
    """Up to `limit` disjoint rows of `length` + 1 tokens, evenly spread over the texts.

    Also the bytes that the predicted tokens spell: all but the first of each row.
    """
    ids = [i for text in texts for i in tokenizer.encode(text + END).ids]
    rows = torch.tensor(ids[: len(ids) // (length + 1) * (length + 1)]).view(-1, length + 1)
    rows = rows[:: max(1, len(rows) // limit)][:limit]
    size = sum(_bytes(tokenizer, row[1:].tolist()) for row in rows)
    return rows, size


def _bytes(tokenizer: Tokenizer, ids: list[int]) -> int:
    # A byte-level token spells each of its bytes with one character; the end token has none.
    pieces = (tokenizer.id_to_token(i) for i in ids)
    return sum(len(piece) for piece in pieces if piece is not None and piece != END)


@torch.inference_mode()
def losses(model: LlamaForCausalLM, rows: Tensor, batch: int = 4) -> Tensor:
    """Loss of each predicted token in nats, [rows, length]."""
    parts = []
    for part in torch.split(rows, batch):
        logits = model(input_ids=part[:, :-1]).logits.float()
        parts.append(F.cross_entropy(logits.transpose(1, 2), part[:, 1:], reduction="none"))
    return torch.cat(parts)


@torch.inference_mode()
def agreement(model: LlamaForCausalLM, draft: LlamaForCausalLM, rows: Tensor) -> float:
    """Share of positions at which both models would greedily write the same token."""
    same = 0
    for row in rows:
        inputs = row[None, :-1]
        same += int(
            (model(input_ids=inputs).logits.argmax(-1) == draft(input_ids=inputs).logits.argmax(-1))
            .sum()
            .item()
        )
    return same / rows[:, 1:].numel()


@torch.inference_mode()
def greedy(
    model: LlamaForCausalLM, tokenizer: Tokenizer, prompts: list[str], limit: int
) -> list[str]:
    """Greedy continuations of at most `limit` tokens, prompts of equal length taken together."""
    end = tokenizer.token_to_id(END)
    encoded = [tokenizer.encode(prompt).ids for prompt in prompts]
    by_length: dict[int, list[int]] = {}
    for index, row in enumerate(encoded):
        by_length.setdefault(len(row), []).append(index)
    answers = [""] * len(prompts)
    for members in by_length.values():
        ids = torch.tensor([encoded[index] for index in members])
        out = model.generate(  # type: ignore[misc]  # transformers annotates self
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=limit,
            do_sample=False,
            use_cache=True,
            eos_token_id=end,
            pad_token_id=end,
        )
        for index, row in zip(members, out[:, ids.shape[1] :].tolist(), strict=True):
            answers[index] = tokenizer.decode(row)
    return answers


@torch.inference_mode()
def sample(model: LlamaForCausalLM, tokenizer: Tokenizer, prompt: str, limit: int) -> str:
    """One continuation of at most `limit` tokens at temperature 0.7, the same every time."""
    torch.manual_seed(0)
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    out = model.generate(  # type: ignore[misc]  # transformers annotates self
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=limit,
        do_sample=True,
        temperature=0.7,
        top_k=0,
        use_cache=True,
        pad_token_id=tokenizer.token_to_id(END),
    )
    return str(tokenizer.decode(out[0, ids.shape[1] :].tolist()))


def doctest_accuracy(
    model: LlamaForCausalLM, tokenizer: Tokenizer, per_grade: int, seed: int = 0
) -> dict[str, float]:
    """Share of held-out tasks answered right, by grade and over `all`; 4-shot and greedy."""
    return accuracy(lambda prompts: greedy(model, tokenizer, prompts, 32), per_grade, seed)


def accuracy(
    answer: Callable[[list[str]], list[str]], per_grade: int, seed: int = 0
) -> dict[str, float]:
    """The same for anything that continues prompts."""
    shares = {}
    for grade in doctests.GRADES:
        chosen = list(islice(doctests.tasks(seed, "held_out", [grade]), per_grade))
        answers = answer([doctests.few_shot(task) for task in chosen])
        right = sum(task.is_right(text) for task, text in zip(chosen, answers, strict=True))
        shares[str(grade)] = right / per_grade
    return shares | {"all": sum(shares.values()) / len(shares)}
