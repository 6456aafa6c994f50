"""Root mean square normalisation (Zhang & Sennrich 2019)."""

from __future__ import annotations

import math
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


class RMSNorm:
    """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension, the mean taken in fp32."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight = weight
        self.eps = eps
        # sqrt(mean(x^2) + eps) = hypot(|x|, sqrt(n eps)) / sqrt(n)
        self._root = math.sqrt(weight.numel())
        self._floor = torch.tensor(self._root * math.sqrt(eps), device=weight.device)

    @cached_property
    def fp32(self) -> Tensor:
        """The weight as it is once it is loaded, in fp32."""
        return self.weight.float()

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise `x` [..., n]."""
        if x.device.type != "cpu":
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        # F.rms_norm has no CPU kernel and takes twice as many operations.
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        rms = size.hypot_(self._floor).div_(self._root)
        return torch.div(x, rms, out=torch.empty_like(x)).mul_(self.weight)
