"""The weights of one decoder layer."""

from __future__ import annotations

import torch
from torch import Tensor

from penstock.engine.kernels.linear import Linear, PlainLinear
from penstock.engine.kernels.norm import RMSNorm
from penstock.engine.kernels.whole import Whole
from penstock.engine.model.config import LayerConfig, ModelConfig


class Layer:
    """Weights of one layer, [out, in] as in the checkpoint.

    Projections of the same input are one matrix: q, k and v; gate and up. A
    layer that shares an earlier layer's K and V has q alone, a deep one q apart from
    k and v, which have an input of their own behind `kv_norm`.
    """

    def __init__(
        self,
        shape: LayerConfig,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device | str,
        kv_norm: RMSNorm | None = None,
    ) -> None:
        def empty(*size: int) -> Tensor:
            return torch.empty(size, dtype=dtype, device=device)

        def norm(size: int) -> RMSNorm:
            return RMSNorm(empty(size), config.norm_eps)

        def linear(outputs: int, inputs: int, biased: bool, norm: RMSNorm | None = None) -> Linear:
            bias = empty(outputs) if biased else None
            if (held := config.quantization) is None:
                return PlainLinear(empty(outputs, inputs), bias, norm)
            whole = Whole.empty(outputs, inputs, held.bits, held.group or inputs, device)
            shape_alone = torch.empty(outputs, inputs, dtype=dtype, device="meta")
            return PlainLinear(shape_alone, bias, norm, whole)

        hidden = config.hidden_size
        self.shape = shape
        q, kv = shape.heads * shape.head_dim, 2 * shape.kv_heads * shape.head_dim
        own_kv = shape.shares_kv is None
        self.attention_norm = norm(hidden)
        qkv = q + kv if shape.fused else q
        self.qkv = linear(qkv, hidden, shape.qkv_bias, self.attention_norm)
        apart = own_kv and not shape.fused
        self.kv = linear(kv, hidden, shape.qkv_bias, kv_norm) if apart else None
        self.q_norm = norm(shape.head_dim) if shape.qk_norm else None
        self.k_norm = norm(shape.head_dim) if shape.qk_norm and own_kv else None
        self.output = linear(hidden, q, shape.output_bias)
        self.ffn_norm = norm(hidden)
        self.gate_up = linear(2 * shape.ffn_size, hidden, shape.ffn_bias, self.ffn_norm)
        self.down = linear(hidden, shape.ffn_size, shape.ffn_bias)

    @property
    def matrices(self) -> list[Linear]:
        """Every matrix of the layer."""
        own_kv = [] if self.kv is None else [self.kv]
        return [self.qkv, *own_kv, self.output, self.gate_up, self.down]

    @property
    def norms(self) -> list[RMSNorm]:
        """Every norm of the layer."""
        norms = [self.attention_norm, self.ffn_norm, self.q_norm, self.k_norm]
        return [norm for norm in norms if norm is not None]
