"""The kinds of attention and feed-forward that models are built of, and what each moves and computes.

Plain arithmetic over sizes; no tensor and no clock. Biases and norms within
heads (under 0.1 % of any model here) are not counted.
"""

from __future__ import annotations

import msgspec


class Gqa(msgspec.Struct, frozen=True):
    """Attention whose query heads share K and V in groups (Ainslie et al. 2023).

    With a `window`, a token sees that many tokens at most, and no more are
    kept. `gated` multiplies the output by a gate as wide as the queries.
    """

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None
    gated: bool = False

    def parameters(self, hidden: int) -> int:
        """Weights of one layer's projections."""
        wide = 2 + self.gated
        return hidden * self.head_dim * (wide * self.heads + 2 * self.kv_heads)

    def kept(self, context: float) -> float:
        """Values of K and V kept of a sequence of so many tokens."""
        return 2 * self.kv_heads * self.head_dim * self._seen(context)

    def read(self, context: float) -> float:
        """Values of K and V that one more token reads."""
        return self.kept(context)

    def grows(self) -> float:
        """Values of K and V that one more token adds to a long context."""
        return 0.0 if self.window else 2 * self.kv_heads * self.head_dim

    def shards(self, tp: int) -> int:
        """Into how many parts `tp` devices can cut K and V: heads are never cut."""
        return min(tp, self.kv_heads)

    def flops_per_pair(self, expanded: bool) -> float:
        return 4 * self.heads * self.head_dim

    def _seen(self, context: float) -> float:
        return context if self.window is None else min(context, self.window)


class Mla(msgspec.Struct, frozen=True):
    """Multi-head latent attention (DeepSeek-V2, 2024): one compressed K and V for all heads.

    Kept are `kv_rank` + `rope_dim` values a token, the same on every device.
    With `top` (sparse attention of DeepSeek-V3.2) a token reads that many of
    them at most, chosen by an index of `index_dim` bytes a token, which is
    read whole.
    """

    heads: int
    kv_rank: int
    rope_dim: int
    nope_dim: int
    value_dim: int
    q_rank: int | None = None
    top: int | None = None
    index_dim: int = 0
    index_heads: int = 0

    def parameters(self, hidden: int) -> int:
        wide = self.heads * (self.nope_dim + self.rope_dim)
        queries = hidden * wide if self.q_rank is None else self.q_rank * (hidden + wide)
        keys = hidden * (self.kv_rank + self.rope_dim)
        keys += self.kv_rank * self.heads * (self.nope_dim + self.value_dim)
        index = self.index_dim * ((self.q_rank or hidden) * self.index_heads + hidden)
        return queries + keys + self.heads * self.value_dim * hidden + index

    def kept(self, context: float) -> float:
        return (self.kv_rank + self.rope_dim + self.index_dim) * context

    def read(self, context: float) -> float:
        seen = context if self.top is None else min(context, self.top)
        return (self.kv_rank + self.rope_dim) * seen + self.index_dim * context

    def grows(self) -> float:
        return self.kv_rank + self.rope_dim + self.index_dim

    def shards(self, tp: int) -> int:
        return 1

    def flops_per_pair(self, expanded: bool) -> float:
        # Absorbed, a pair costs the compressed sizes; expanded (prefill), the heads' own.
        if expanded:
            return 2 * self.heads * (self.nope_dim + self.rope_dim + self.value_dim)
        return 2 * self.heads * (2 * self.kv_rank + self.rope_dim)


class Linear(msgspec.Struct, frozen=True):
    """Linear attention with a state of fixed size (gated delta rule, Yang et al. 2024)."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int

    def parameters(self, hidden: int) -> int:
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        # Queries, keys, values, the gate as wide as they, two scalars a head, and the output.
        return hidden * (2 * keys + 3 * values + 2 * self.value_heads)

    @property
    def state(self) -> int:
        """Values of one sequence's state."""
        return self.value_heads * self.key_dim * self.value_dim

    def shards(self, tp: int) -> int:
        return min(tp, self.key_heads)


class Dense(msgspec.Struct, frozen=True):
    """A gated feed-forward of three matrices, `width` values wide."""

    width: int

    def parameters(self, hidden: int) -> int:
        return 3 * hidden * self.width

    def touched(self, hidden: int, tokens: float) -> float:
        return 3 * hidden * self.width


class Moe(msgspec.Struct, frozen=True):
    """A router, `experts` of which each token takes `active`, and one shared of width `shared`."""

    experts: int
    active: int
    width: int
    shared: int = 0

    def parameters(self, hidden: int) -> int:
        return 3 * hidden * (self.experts * self.width + self.shared) + hidden * self.experts

    def touched(self, hidden: int, tokens: float) -> float:
        """Weights that a step over so many tokens reads, in expectation.

        Each token leaves an expert alone with probability (E - k) / E where
        routing is uniform, the case that touches most.
        """
        idle = (1 - self.active / self.experts) ** tokens
        experts = self.experts * (1 - idle)
        return 3 * hidden * (experts * self.width + self.shared) + hidden * self.experts


class Layers(msgspec.Struct, frozen=True):
    """So many layers alike, wherever they stand in the model."""

    count: int
    attention: Gqa | Mla | Linear
    ffn: Dense | Moe
