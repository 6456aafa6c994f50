"""What training a whole model and distilling into a smaller one share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

_TABLES = ("embed_tokens", "lm_head")


class Optimizers:
    """Muon for the hidden matrices, AdamW for embedding, head, norms and biases.

    `peak` is the learning rate that `step` takes a share of.
    """

    def __init__(self, named: Mapping[str, Tensor], peak: float) -> None:
        matrices = {
            name: tensor
            for name, tensor in named.items()
            if tensor.ndim == 2 and not any(table in name for table in _TABLES)
        }
        others = {name: tensor for name, tensor in named.items() if name not in matrices}
        # match_rms_adamw scales Muon's orthogonal updates to the size of AdamW's,
        # so that one learning rate serves both (Liu et al. 2025).
        self._peak = peak
        self._parts: list[tuple[torch.optim.Optimizer, Mapping[str, Tensor]]] = []
        if matrices:
            muon = torch.optim.Muon(
                list(matrices.values()),
                lr=peak,
                weight_decay=0.1,
                momentum=0.95,
                adjust_lr_fn="match_rms_adamw",
            )
            self._parts.append((muon, matrices))
        if others:
            adam = torch.optim.AdamW(
                list(others.values()), lr=peak, betas=(0.9, 0.95), weight_decay=0.0
            )
            self._parts.append((adam, others))

    def step(self, rate: float) -> None:
        """One step at `rate` times the peak learning rate, gradients clipped to a norm of 1."""
        every = [tensor for _, named in self._parts for tensor in named.values()]
        torch.nn.utils.clip_grad_norm_(every, 1.0)
        for optimizer, _ in self._parts:
            for group in optimizer.param_groups:
                group["lr"] = self._peak * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """State as named tensors, `parameter/field`."""
        return {
            f"{name}/{field}": value
            for optimizer, named in self._parts
            for name, parameter in named.items()
            for field, value in optimizer.state[parameter].items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        for key, value in tensors.items():
            name, field = key.split("/")
            for optimizer, named in self._parts:
                if name in named:
                    optimizer.state[named[name]][field] = value


def distillation(
    student: Tensor, teacher: Tensor | None, targets: Tensor, *, temperature: float, truth: float
) -> Tensor:
    """Mean loss in nats a token of a student's logits [tokens, vocab], `targets` [tokens].

    (1 - truth) T^2 KL(teacher_T || student_T) + truth CE(targets), distributions at
    temperature T (Hinton et al. 2015, whose T^2 keeps the gradient's size). Without
    a teacher, the cross entropy alone.
    """
    student = student.float()
    exact = F.cross_entropy(student, targets)
    if teacher is None:
        return exact
    soft = F.kl_div(
        (student / temperature).log_softmax(-1),
        (teacher.float() / temperature).log_softmax(-1),
        log_target=True,
        reduction="batchmean",
    )
    return (1 - truth) * temperature**2 * soft + truth * exact
