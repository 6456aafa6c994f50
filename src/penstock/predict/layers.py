"""The kinds of attention and feed-forward that models are built of, and what each holds and does.

Plain arithmetic over sizes; no tensor and no clock. Biases and norms within
heads (under 0.1 % of any model here) are not counted. Every attention says
of one layer, one sequence and `width` bytes a value of KV:

- `parameters(hidden)`: weights of its projections;
- `kept(context, width)`: bytes kept of a sequence of so many tokens;
- `read(context, width)`: bytes that one more token of it reads;
- `grown(width)`: bytes that one more token adds to a long sequence;
- `shards(tp)`: into how many parts so many devices can cut what is kept;
- `seen(context)`: tokens of its context that a token attends to;
- `flops_per_pair(expanded)`: operations for each of these.

Every feed-forward says its `parameters(hidden)`, and how many of them a step
over so many tokens reads: `touched(hidden, tokens)`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

_STATE_BYTES = 4  # the state of linear attention is kept in fp32


class Attention(Protocol):
    """What every kind of attention says; see the module."""

    # ruff: noqa: D102 -- the module's docstring is the contract of all these.
    def parameters(self, hidden: int) -> int: ...
    def kept(self, context: float, width: float) -> float: ...
    def read(self, context: float, width: float) -> float: ...
    def grown(self, width: float) -> float: ...
    def shards(self, tp: int) -> int: ...
    def seen(self, context: float) -> float: ...
    def flops_per_pair(self, expanded: bool) -> float: ...


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
        return hidden * self.head_dim * ((2 + self.gated) * self.heads + 2 * self.kv_heads)

    def kept(self, context: float, width: float) -> float:
        return 2 * self.kv_heads * self.head_dim * self.seen(context) * width

    def read(self, context: float, width: float) -> float:
        return self.kept(context, width)

    def grown(self, width: float) -> float:
        return 0.0 if self.window else 2 * self.kv_heads * self.head_dim * width

    def shards(self, tp: int) -> int:
        return min(tp, self.kv_heads)  # heads are not cut; beyond that devices hold copies

    def seen(self, context: float) -> float:
        return context if self.window is None else min(context, self.window)

    def flops_per_pair(self, expanded: bool) -> float:
        return 4 * self.heads * self.head_dim


class Mla(msgspec.Struct, frozen=True):
    """Multi-head latent attention (DeepSeek-V2, 2024): one compressed K and V for all heads.

    Kept are `kv_rank` + `rope_dim` values a token, the same on every device.
    With `top` (the sparse attention of DeepSeek-V3.2) a token attends to that
    many at most, chosen by an index of `index_dim` values a token, which is
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
        unpacked = self.kv_rank * self.heads * (self.nope_dim + self.value_dim)
        index = self.index_dim * ((self.q_rank or hidden) * self.index_heads + hidden)
        return queries + keys + unpacked + self.heads * self.value_dim * hidden + index

    def kept(self, context: float, width: float) -> float:
        return (self.kv_rank + self.rope_dim + self.index_dim) * context * width

    def read(self, context: float, width: float) -> float:
        attended = (self.kv_rank + self.rope_dim) * self.seen(context)
        return (attended + self.index_dim * context) * width

    def grown(self, width: float) -> float:
        return self.kept(1, width)

    def shards(self, tp: int) -> int:
        return 1

    def seen(self, context: float) -> float:
        return context if self.top is None else min(context, self.top)

    def flops_per_pair(self, expanded: bool) -> float:
        # Absorbed (decoding), a pair costs the compressed sizes; expanded (prefill), the heads'.
        if expanded:
            return 2 * self.heads * (self.nope_dim + self.rope_dim + self.value_dim)
        return 2 * self.heads * (2 * self.kv_rank + self.rope_dim)


class Linear(msgspec.Struct, frozen=True):
    """Linear attention with a state of fixed size (gated delta rule, Yang et al. 2024).

    The state is read whole for every token, whatever the context; no token
    is seen by itself.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int

    def parameters(self, hidden: int) -> int:
        keys, values = self.key_heads * self.key_dim, self.value_heads * self.value_dim
        # Queries, keys, values and their gate, two scalars a head, and the output.
        return hidden * (2 * keys + 2 * values + 2 * self.value_heads + values)

    def kept(self, context: float, width: float) -> float:
        return self.value_heads * self.key_dim * self.value_dim * _STATE_BYTES

    def read(self, context: float, width: float) -> float:
        return self.kept(context, width)

    def grown(self, width: float) -> float:
        return 0.0

    def shards(self, tp: int) -> int:
        return min(tp, self.key_heads)

    def seen(self, context: float) -> float:
        return 0.0

    def flops_per_pair(self, expanded: bool) -> float:
        return 0.0


class Dense(msgspec.Struct, frozen=True):
    """A gated feed-forward of three matrices, `width` values wide."""

    width: int

    def parameters(self, hidden: int) -> int:
        return 3 * hidden * self.width

    def touched(self, hidden: int, tokens: float) -> float:
        return self.parameters(hidden)


class Moe(msgspec.Struct, frozen=True):
    """A router, `experts` of which each token takes `active`, and one shared of width `shared`."""

    experts: int
    active: int
    width: int
    shared: int = 0

    def parameters(self, hidden: int) -> int:
        return hidden * (3 * (self.experts * self.width + self.shared) + self.experts)

    def touched(self, hidden: int, tokens: float) -> float:
        # Each token leaves an expert alone with probability (E - k) / E where routing
        # is uniform, which is the case that touches most.
        busy = self.experts * (1 - float((1 - self.active / self.experts) ** tokens))
        return hidden * (3 * (busy * self.width + self.shared) + self.experts)


class Layers(msgspec.Struct, frozen=True):
    """So many layers alike, wherever they stand in the model."""

    count: int
    attention: Gqa | Mla | Linear
    ffn: Dense | Moe
